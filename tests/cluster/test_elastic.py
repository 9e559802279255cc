"""An elastic student while a host is away: fewer workers, then as many as before, one student.

The test hands out the passes of records: students wait for each, so what happens between two of
them happens in the middle of an epoch, however fast or slow the machine is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from orchestrator.locks import FolderLock
from orchestrator.runs import RunFolder
from tests.cluster.cluster import NUM_HOSTS, Cluster
from tests.cluster.jobs import NUM_EPOCHS, WORKER, Job, given, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
_CHANGES = (
    f"workers={{min: 1, max: {NUM_HOSTS}, cpus: 1}}",  # of nodes with one CPU each
    # With room beside one worker, training does not wait for the end of recording.
    *(f"teachers[{index}].cpus=0.3" for index in range(3)),
)


@contextmanager
def handed_out(recorded: Path, folder: Path) -> Generator[Callable[[int], None]]:
    """A store without passes, which nobody may record; yields what adds one of ``recorded``."""

    def hand_out(index: int) -> None:
        for part in recorded.rglob(f"pass-{index:05d}/*.arrow"):
            place = folder / part.relative_to(recorded)
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = shutil.copy(part, place.with_suffix(".draft"))
            Path(draft).replace(place)

    shutil.copytree(recorded, folder, ignore=shutil.ignore_patterns("pass-*"))
    with ExitStack() as stack:
        for identity in folder.glob("*/identity.json"):
            stack.enter_context(FolderLock(identity.parent))
        yield hand_out


def num_workers(folder: Path) -> list[int]:
    """Workers of each epoch that is done."""
    runs = map(RunFolder, folder.glob("runs/demo/*/seed-0"))
    metrics = [run.metrics() for run in runs]
    return [int(size) for rows in metrics if len(rows) for size in rows["workers"]]


def test_an_elastic_student_shrinks_without_a_host_and_grows_when_it_is_back(
    whole: Cluster, undisturbed: Job
) -> None:
    folder, away = whole.storage / "elastic", NUM_HOSTS - 1
    node = f"node {whole.hosts.address(away)}"
    before = undisturbed.parts
    with (
        handed_out(undisturbed.folder / "signals", folder / "signals") as hand_out,
        whole.submitting("train", "demo", *settings(folder), *given(*_CHANGES)) as run,
    ):
        hand_out(0)
        run.until(lambda: num_workers(folder) == [3])
        assert away in whole.hosts_with(WORKER)
        whole.hosts.cut(away)
        run.until(lambda: f"3 workers → 2 after epoch 1: {node} was lost" in run.text)
        hand_out(1)
        run.until(lambda: num_workers(folder) == [3, 2])
        whole.hosts.mend(away)
        run.until(lambda: f"2 workers → 3 after epoch 2: {node} joined" in run.text)
        hand_out(2)
        job = Job(folder, run.succeed())
    assert "3 workers at first, of 1 to 3" in job.shown, job.shown
    assert num_workers(folder) == [3, 2, *[3] * (NUM_EPOCHS - 2)]
    # Three workers add in another order than two.
    difference = job.result["test_accuracy"] - undisturbed.result["test_accuracy"]
    assert abs(difference) <= 0.02
    assert job.parts == undisturbed.parts == before
