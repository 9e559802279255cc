"""One process at a time trains in a run's folder: two would write the same checkpoints.

The driver holds the lock, wherever its workers are; the kernel lets go when the driver ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.locks import FolderLock
from orchestrator.runs import RunFolder
from orchestrator.students import StudentJob

POLL_S = 0.5


def training_lock(folder: Path) -> FolderLock:
    """Of a run's folder, or of a sweep's."""
    return FolderLock(folder, file="training.lock", doing="training")


@contextmanager
def alone(jobs: Sequence[StudentJob]) -> Generator[list[StudentJob]]:
    """Those of ``jobs`` that are not finished; no other process trains them meanwhile.

    Raises BlockingIOError naming a folder that another process trains in, and that process.
    """
    with ExitStack() as stack:
        for job in jobs:
            if not RunFolder(job.folder).finished:
                stack.enter_context(training_lock(job.folder))
        # Asked again: one may have been finished before its lock was free.
        yield [job for job in jobs if not RunFolder(job.folder).finished]


@contextmanager
def in_turn(folders: Mapping[Path, str], tell: Callable[[str], None]) -> Generator[None]:
    """Be the one who trains in ``folders``, each given with its run's title.

    Waits for other processes, and tells of it.
    """
    with ExitStack() as stack:
        for folder in sorted(folders):  # by one order, so that no two wait for each other
            lock = training_lock(folder)
            stack.callback(lock.release)
            if not lock.acquire():
                holder = lock.holder() or "another process"
                tell(f"{folders[folder]}: {holder} trains it; waiting for it")
                while not lock.acquire():
                    time.sleep(POLL_S)
        yield
