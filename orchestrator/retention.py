"""Which passes are still needed, and by whom: what bounds a store's size while students train."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, final

from orchestrator.codecs import make_codec
from orchestrator.consumers import Consumers
from orchestrator.students import EpochEvent, Event, FailureEvent, StartEvent

if TYPE_CHECKING:
    from orchestrator.recording import Recording
    from orchestrator.store import Column


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

    Every driver that reads a teacher's recordings says beside them which passes it still needs.
    For recordings at a URL all methods but ``release`` raise RemoteError.
    """

    def __init__(self, recordings: Sequence[Recording], demand: Demand) -> None:
        self._recordings = recordings
        self._demand = demand
        self._consumers = {r.key: r.store.place.consumers(r.key) for r in recordings}

    def register(self) -> None:
        """Declare this driver's needs, before anything is recorded or read."""
        try:
            self._declare()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Withdraw this driver's needs."""
        for consumers in self._consumers.values():
            consumers.withdraw()

    def sweep(self) -> None:
        """Delete the recorded passes that neither this driver nor any other still needs."""
        self._declare()
        for recording in self._recordings:
            consumers, store = self._consumers[recording.key], recording.store
            columns = [
                store.column(signal.spec, make_codec(signal.codec, signal.shape))
                for signal in recording.signals
            ]
            if self._left_behind(columns, consumers):
                with consumers.alone():  # asked again: somebody may have begun to read
                    for column, pass_index in self._left_behind(columns, consumers):
                        column.remove_pass(pass_index)
            for column in columns:
                store.place.forget_deleted(column.path)

    def _left_behind(
        self, columns: Iterable[Column], consumers: Consumers
    ) -> list[tuple[Column, int]]:
        needed = set(self._demand.passes()) | consumers.needs_of_others()
        return [(c, index) for c in columns for index in c.passes() if index not in needed]

    def _declare(self) -> None:
        passes = self._demand.passes()
        for consumers in self._consumers.values():
            consumers.declare(passes)


@final
class Watch:
    """Follows runs from epoch to epoch, and deletes the passes that all have left."""

    def __init__(self, demand: Demand, retention: Retention | None) -> None:
        self._demand, self._retention = demand, retention

    def on_event(self, event: Event) -> None:
        """Follow a run. Raises what ``Retention.sweep`` raises; the run's progress counts then."""
        match event:
            # A start, too, says how far a run is: a worker may die between saving and telling.
            case EpochEvent(job, epoch, _) | StartEvent(job, _, epoch, _):
                self._demand.epoch_done(job, epoch)
            case FailureEvent(job, _):
                self._demand.failed(job)
            case _:
                return
        if self._retention is not None:
            self._retention.sweep()
