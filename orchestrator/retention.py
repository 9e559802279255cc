"""Which passes are still needed, and by whom: what bounds a store's size while students train."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from orchestrator.codecs import make_codec
from orchestrator.runs import write_atomically

if TYPE_CHECKING:
    from orchestrator.recording import Recording

CONSUMERS = "consumers"


@final
class Demand:
    """The passes that unfinished runs will read: epoch e reads pass e mod ``num_passes``.

    Runs are trained one after the other; safe to use from several threads.
    """

    def __init__(self, next_epochs: Mapping[str, int], *, num_epochs: int, num_passes: int) -> None:
        self._next = dict(next_epochs)
        self._num_epochs, self._num_passes = num_epochs, num_passes
        self._lock = threading.Lock()

    def epoch_done(self, run: str, epochs_done: int) -> None:
        """Say how far a run is."""
        with self._lock:
            self._next[run] = epochs_done

    def failed(self, run: str) -> None:
        """A run that needs nothing more."""
        self.epoch_done(run, self._num_epochs)

    def passes(self) -> list[int]:
        """Every pass that is still needed, first needed first."""
        with self._lock:
            epochs = [e for start in self._next.values() for e in range(start, self._num_epochs)]
        return list(dict.fromkeys(e % self._num_passes for e in epochs))

    def within(self, ahead: int) -> set[int]:
        """The passes of the next ``ahead`` epochs of the run that trains now, and the current."""
        with self._lock:
            running = [start for start in self._next.values() if start < self._num_epochs]
        first = running[0] if running else self._num_epochs
        last = min(first + ahead + 1, self._num_epochs)
        return {epoch % self._num_passes for epoch in range(first, last)}


@final
class Retention:
    """Deletes the passes that every consumer has left behind (``retain: window``).

    Every driver that reads a teacher's recordings keeps a file beside them that says which passes
    it still needs, and holds a lock on it; the kernel lets go of the lock when the driver dies.
    """

    def __init__(self, recordings: Sequence[Recording], demand: Demand) -> None:
        self._recordings = recordings
        self._demand = demand
        name = f"{uuid.uuid4().hex}.json"
        self._files = {r.key: r.store.path / CONSUMERS / name for r in recordings}
        self._held: list[int] = []

    def register(self) -> None:
        """Declare this driver's needs, before anything is recorded or read."""
        for path in self._files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._held.append(lock)
        self._declare()

    def release(self) -> None:
        """Withdraw this driver's needs."""
        for path in self._files.values():
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        for lock in self._held:
            os.close(lock)
        self._held.clear()

    def sweep(self) -> None:
        """Delete the recorded passes that neither this driver nor any other still needs."""
        self._declare()
        for recording in self._recordings:
            needed = set(self._demand.passes()) | _needs_of_others(self._files[recording.key])
            for signal in recording.signals:
                column = recording.store.column(signal.spec, make_codec(signal.codec, signal.shape))
                for pass_index in column.passes():
                    if pass_index not in needed:
                        column.remove_pass(pass_index)

    def _declare(self) -> None:
        text = json.dumps(self._demand.passes())
        for path in self._files.values():
            write_atomically(path, lambda draft: draft.write_text(text))


def has_consumers(folder: Path) -> bool:
    """Whether a live driver, this process included, reads a teacher's recordings."""
    return any(_is_alive(lock) for lock in (folder / CONSUMERS).glob("*.lock"))


def _needs_of_others(ours: Path) -> set[int]:
    """What other live drivers declared; the files of dead ones are removed."""
    needed: set[int] = set()
    for path in ours.parent.glob("*.json"):
        if path == ours:
            continue
        if _is_alive(path.with_suffix(".lock")):
            needed |= set(json.loads(path.read_text()))
        else:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
    return needed


def _is_alive(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
