"""Would Ray Data's actor pools record as well as our dispatcher?

Both write the same parts with the same teacher in one actor, from nothing to the last part on disk:
``recorder`` is ours, ``ray_data`` maps the list of parts over an actor pool. What counts for
a user is the time of a whole recording (start included) and the time that a part more costs.

    python -m benchmarks.ray_data [--quick] [--json FILE]
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Results, arguments, interleaved, median, median_ratio, report, seconds
from benchmarks.workbench import Bench, make_bench
from distill.methods.kd import Config as KDConfig
from orchestrator.fleet import Fleet
from orchestrator.missing import missing_jobs
from orchestrator.recording import Recorder, RecordingReport, Serving
from orchestrator.session import ray_session
from orchestrator.teachers import PartJob, Teacher

CPUS = 0.25


class Quiet:
    """Nobody watches."""

    def on_wait(self, holder: str) -> None: ...

    def on_start(self, report: RecordingReport) -> None: ...

    def on_stall(self, teachers: Sequence[str]) -> None: ...

    def on_restart(self, teacher: str, process: str) -> None: ...

    def on_part(self, report: RecordingReport) -> None: ...


class PartRecorder:
    """What Ray Data maps over rows: one row is one part."""

    def __init__(self, serving: Serving, jobs: Sequence[PartJob]) -> None:
        self._teacher = Teacher(serving.recipe, serving.inputs, num_threads=1)
        self._jobs = jobs

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        reports = [self._teacher.record(self._jobs[int(item)]) for item in batch["id"]]
        return {"seconds": np.array([report.seconds for report in reports])}


def by_recorder(serving: Serving, passes: Sequence[int]) -> None:
    with Fleet() as fleet:
        Recorder([serving], fleet, passes, Quiet()).run()


def by_ray_data(serving: Serving, passes: Sequence[int]) -> None:
    import ray
    from ray.data import ActorPoolStrategy

    jobs, _ = missing_jobs(serving.recording, passes)
    parts = ray.data.range(len(jobs), override_num_blocks=len(jobs))
    constructor: dict[str, Any] = {"serving": serving, "jobs": jobs}
    parts.map_batches(
        PartRecorder,
        batch_size=1,
        compute=ActorPoolStrategy(size=1),
        num_cpus=CPUS,
        fn_constructor_kwargs=constructor,
    ).materialize()


def measure(bench: Bench, folder: Path, *, num_rounds: int, num_passes: int) -> Results:
    """Seconds of one whole recording, and of one of two passes, each into an empty store."""
    import ray

    turn = count()

    def fresh() -> Serving:
        serving = bench.servings[0]
        root = str(folder / str(next(turn)))
        return replace(serving, recording=replace(serving.recording, root=root))

    results = Results()
    with ray_session():
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rounds = interleaved(
            {
                f"{name}_{label}_s": lambda record=record, passes=passes: seconds(
                    lambda: record(fresh(), range(passes))
                )
                for name, record in (("recorder", by_recorder), ("ray_data", by_ray_data))
                for label, passes in (("short", 1), ("long", num_passes))
            },
            num_rounds=num_rounds,
            warm_up=False,
        )
    parts = bench.recordings[0].identity.num_parts * (num_passes - 1)
    for name in rounds:
        results.add(name, median(rounds, name), "median; 'short' is one pass")
    for name in ("recorder", "ray_data"):
        more = median(rounds, f"{name}_long_s") - median(rounds, f"{name}_short_s")
        results.add(f"{name}_part_s", more / parts, "what a part more costs")
    for label in ("short", "long"):
        ratio = median_ratio(rounds, f"ray_data_{label}_s", f"recorder_{label}_s")
        results.add(f"ray_data_over_recorder_{label}", ratio, "Ray Data's time ÷ ours")
    return results


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        bench = make_bench(Path(folder), {"name": "fashion_mnist_mini"}, ["resnet8"], KDConfig())
        results = measure(
            bench,
            Path(folder),
            num_rounds=1 if options.quick else 5,
            num_passes=2 if options.quick else 6,
        )
    report("Recording resnet8's logits", results, json_file=options.json)


if __name__ == "__main__":
    main()
