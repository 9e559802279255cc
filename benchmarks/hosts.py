"""What it costs a host to read records that it does not have.

``python -m benchmarks.hosts [--quick] [--json FILE]`` makes the three hosts of the cluster tests
(as root, as ``make test-cluster`` does). What FitNet reads of the demo's teachers is recorded in a
folder that hosts share, and in an object store outside of them (moto, a stand-in for S3 that
shares this machine's cores). A student of two workers on two hosts is trained from the folder, from
mirrors that are empty, from full ones, and from ones that hold one pass of the three.

Figures are of the student's run: seconds that it waited for signals (``wait/signals_s``), in its
first epoch and in all others, and bytes that came from the object store. No link is slowed down:
what is measured is what the mirror itself costs. --quick takes 3 epochs for 9, and one round for 3.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final
from urllib.parse import unquote

from benchmarks.common import Results, Target, arguments, report
from orchestrator.runs import RunFolder
from tests.cluster.cluster import Cluster, cluster_of_hosts
from tests.cluster.jobs import given
from tests.cluster.object_store import BUCKET, MIRROR, object_store
from tests.remote_stores import Server

NUM_PASSES = 3
CASES = ("shared", "cold", "warm", "bounded")
TARGETS = {
    # Each of two hosts fetches each part once; what is read again comes from its own disk.
    "cold_fetched_over_records": Target("at most", 2.0),
    "warm_fetched_over_records": Target("at most", 0.0),
}


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """What a student's run saw of its records."""

    first_wait_s: float
    later_wait_s: float
    epoch_s: float  # of the later ones, the median
    fetched_bytes: int


@final
class Bench:
    """The job on hosts, from one place or the other."""

    def __init__(self, cluster: Cluster, server: Server, *, epochs: int) -> None:
        self.cluster, self.server, self.epochs = cluster, server, epochs
        self._sizes: dict[str, int] = {}
        self._num_runs = 0

    @property
    def record_bytes(self) -> int:
        return sum(self._sizes.values())

    def record(self) -> None:
        """The same records at both places."""
        for case in ("shared", "cold"):
            self.cluster.submit("cache", "demo", *self._settings(case))
        folder = self.cluster.storage / "records"
        self._sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in folder.rglob("*.arrow")
        }

    def read(self, case: str) -> Reading:
        """Train a student of one seed from where ``case`` says."""
        if case in ("cold", "bounded"):
            for number in range(self.cluster.hosts.count):
                self.cluster.hosts.run(number, f"rm -rf {MIRROR}")
        self._num_runs += 1
        root = self.cluster.storage / f"runs-{self._num_runs}"
        self.server.requests.clear()
        place = given(f"output.root={root}")
        self.cluster.submit("train", "demo", *self._settings(case), *place)
        (folder,) = root.glob("demo/fitnet-*/seed-0")
        rows = RunFolder(folder).metrics()
        waits, seconds = rows["wait/signals_s"], rows["seconds/epoch"]
        fetched = [unquote(request) for request in self.server.downloads()]
        return Reading(
            first_wait_s=float(waits.iloc[0]),
            later_wait_s=float(waits.iloc[1:].sum()),
            epoch_s=float(seconds.iloc[1:].median()),
            fetched_bytes=sum(
                size * sum(name in request for request in fetched)
                for name, size in self._sizes.items()
            ),
        )

    def _settings(self, case: str) -> tuple[str, ...]:
        changes = [
            "method=fitnet",
            "seeds=[0]",
            "baselines=[]",
            f"schedule.epochs={self.epochs}",
            f"signals.passes={NUM_PASSES}",
            "workers={count: 2, cpus: 1}",  # of nodes with one CPU each
        ]
        if case == "shared":
            return given(*changes, f"signals.root={self.cluster.storage / 'records'}")
        places = [f"signals.root=s3://{BUCKET}", f"signals.mirror={MIRROR}"]
        if case == "bounded":
            places.append(f"signals.mirror_bytes={int(1.1 * self.record_bytes / NUM_PASSES)}")
        return given(*changes, *places)


def summarise(
    readings: Mapping[str, Sequence[Reading]], *, record_bytes: int, epochs: int
) -> Results:
    results = Results()
    results.add("records_mb", record_bytes / 1e6, f"of {NUM_PASSES} passes")
    for case, found in readings.items():
        first = statistics.median(one.first_wait_s for one in found)
        later = statistics.median(one.later_wait_s for one in found)
        fetched = statistics.median(one.fetched_bytes for one in found)
        results.add(f"{case}_first_wait_s", first, "waited for signals in the first epoch")
        results.add(f"{case}_later_wait_s", later, f"in the {epochs - 1} others together")
        results.add(f"{case}_fetched_over_records", fetched / record_bytes, "by all hosts")
    for case in CASES[1:]:
        ratios = [
            one.epoch_s / shared.epoch_s
            for one, shared in zip(readings[case], readings["shared"], strict=True)
        ]
        name = f"{case}_epoch_over_shared"
        results.add(name, statistics.median(ratios), "a later epoch's seconds")
    return results


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(argv)
    epochs, num_rounds = (3, 1) if options.quick else (9, 3)
    folder = Path(f"/var/tmp/tutelage-hosts-{os.getpid()}")
    readings: dict[str, list[Reading]] = {case: [] for case in CASES}
    with cluster_of_hosts(folder) as cluster, object_store(cluster) as server:
        bench = Bench(cluster, server, epochs=epochs)
        bench.record()
        for _ in range(num_rounds):
            for case in CASES:
                readings[case].append(bench.read(case))
        results = summarise(readings, record_bytes=bench.record_bytes, epochs=epochs)
    title = "A student's records on hosts: a shared folder, mirrors of an object store"
    report(title, results, targets=TARGETS, json_file=options.json)


if __name__ == "__main__":
    main()
