"""The job that is run again and again, and what has to be the same each time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tests.cluster.cluster import Cluster

NUM_WORKERS, NUM_EPOCHS, NUM_PASSES = 2, 15, 3
TEACHER, WORKER = "ray::TeacherActor", "ray::RayTrainWorker"  # as processes are named
NUM_PARTS = NUM_PASSES * 3 * 2  # of three teachers, and two of a pass
_CHANGES = (
    "seeds=[0]",
    "baselines=[]",
    f"schedule.epochs={NUM_EPOCHS}",
    f"signals.passes={NUM_PASSES}",
    # As one step's rounding goes on: at the demo's rate this student dies or learns by chance.
    "optimizer.lr=0.01",
    "student.options.norm=none",  # with BatchNorm, accuracy would follow the number of workers
    "workers.cpus=1",  # of nodes with one CPU each
)


@final
@dataclass(frozen=True, slots=True)
class Job:
    """A job that has come to its end."""

    folder: Path
    shown: str
    recorders: frozenset[str] = frozenset()  # nodes on which parts were recorded, where asked for

    @property
    def result(self) -> dict[str, Any]:
        (path,) = self.folder.glob("runs/demo/*/seed-0/result.json")
        return json.loads(path.read_text())

    @property
    def parts(self) -> dict[str, str]:
        """The sha256 of every recorded part."""
        root = self.folder / "signals"
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob("*.arrow")
        }


def given(*changes: str) -> tuple[str, ...]:
    """Settings as a command takes them; later ones hold."""
    return tuple(word for change in changes for word in ("-s", change))


def settings(
    folder: Path, *, num_workers: int = NUM_WORKERS, records: Path | None = None
) -> tuple[str, ...]:
    """The job in a folder of its own; ``records`` of another one may be used again."""
    places = (f"output.root={folder}/runs", f"signals.root={records or folder}/signals")
    return given(*places, *_CHANGES, f"workers.count={num_workers}")


def run_to_its_end(cluster: Cluster, folder: Path, asked: tuple[str, ...]) -> Job:
    return Job(folder, cluster.submit("train", "demo", *asked))
