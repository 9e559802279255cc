"""Where signals come from: the store, live actors, or a teacher in the worker.

To the engine they are alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from distill.signals import Batch, SignalSpec, TeacherSignals
from orchestrator.codecs import Codec, make_codec
from orchestrator.layout import StoreError
from orchestrator.recording import Recording
from orchestrator.store import Column

if TYPE_CHECKING:
    from orchestrator.teachers import Teacher

LARGE_ROW = 4096  # bytes of a sample's signals
POLL_S = 0.2
REMOTE_POLL_S = 1.0  # every look is a request or two
ABANDONED_S = 30.0  # longer than a lock is free between a driver's death and its successor


@final
class CachedSource:
    """Signals gathered from memory-mapped records; waits for the pass it needs and no other.

    Large rows are gathered by a thread, for the batches that are asked for ahead: copying them, and
    the page faults of a pass that was just mapped, take time while the student trains.
    """

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._columns: dict[str, dict[SignalSpec, tuple[Column, Codec]]] = {}
        for recording in recordings:
            store = recording.store
            columns = self._columns[recording.teacher] = {}
            for signal in recording.signals:
                codec = make_codec(signal.codec, signal.shape)
                columns[signal.spec] = store.column(signal.spec, codec), codec
        codecs = (codec for columns in self._columns.values() for _, codec in columns.values())
        self._is_large = sum(codec.row_bytes for codec in codecs) >= LARGE_ROW
        self._gatherer = ThreadPoolExecutor(1, thread_name_prefix="gather")
        self._ahead: dict[tuple[int, bytes], Future[TeacherSignals]] = {}
        self._closed = threading.Event()
        self._open: dict[tuple[str, SignalSpec], np.ndarray] = {}
        self._pass = -1
        self.seconds_waited = 0.0

    def prefetch(self, batch: Batch) -> None:
        """Have large rows gathered; small ones are there sooner than a thread would wake up."""
        if self._is_large:
            gathering = self._gatherer.submit(self._gather, batch.indices, batch.pass_index)
            self._ahead[_key(batch)] = gathering

    def signals(self, batch: Batch) -> TeacherSignals:
        started = time.perf_counter()
        if self._is_large:
            if _key(batch) not in self._ahead:
                self.prefetch(batch)
            signals = self._ahead.pop(_key(batch)).result()
            self.seconds_waited += time.perf_counter() - started
            return signals
        if batch.pass_index != self._pass:
            self._open_pass(batch.pass_index)
            self.seconds_waited += time.perf_counter() - started
        return self._gather(batch.indices, batch.pass_index)

    def _gather(self, indices: np.ndarray, pass_index: int) -> TeacherSignals:
        if pass_index != self._pass:
            self._open_pass(pass_index)
        return TeacherSignals(
            {
                teacher: {
                    spec: torch.from_numpy(
                        _decoded(column, codec, self._open[teacher, spec][indices])
                    )
                    for spec, (column, codec) in columns.items()
                }
                for teacher, columns in self._columns.items()
            }
        )

    def _open_pass(self, pass_index: int) -> None:
        self._open.clear()
        for teacher, columns in self._columns.items():
            for spec, (column, _) in columns.items():
                self._wait(column, pass_index)
                self._open[teacher, spec] = column.open_pass(pass_index)
        self._pass = pass_index

    def _wait(self, column: Column, pass_index: int) -> None:
        """Until the pass is whole. Raises StoreError when nobody records it any more."""
        lock = column.store.lock
        poll_s = POLL_S if column.store.place.is_local else REMOTE_POLL_S
        alone_since: float | None = None
        while not column.is_complete(pass_index):
            now = time.monotonic()
            alone_since = None if lock.holder() else alone_since or now
            if alone_since and now - alone_since > ABANDONED_S:
                raise StoreError(
                    f"pass {pass_index} of {column.path} is not whole, and nobody has recorded "
                    f"there for {ABANDONED_S:g} s; the driver's message says why it stopped"
                )
            if self._closed.wait(poll_s):
                raise StoreError(
                    f"pass {pass_index} of {column.path}: nobody waits for it any more"
                )

    def close(self) -> None:
        self._closed.set()
        self._gatherer.shutdown(cancel_futures=True)
        self._ahead.clear()
        self._open.clear()


@final
class ServedSource:
    """Signals asked of live actors, a few batches ahead.

    A request names samples and a pass, no pixels: the actor renders them itself. The answer goes
    from actor to worker through the object store. Ray starts dead actors anew and repeats their
    calls. Answers are encoded as the store's, so what is moved is as small.
    """

    def __init__(
        self, recordings: Sequence[Recording], actors: Mapping[str, Sequence[Any]]
    ) -> None:
        self._recordings = recordings
        self._actors = actors  # by identity key
        self._asked: dict[tuple[int, bytes], dict[str, Any]] = {}
        self._count = 0
        self.seconds_waited = 0.0

    def prefetch(self, batch: Batch) -> None:
        self._count += 1
        requests: dict[str, Any] = {}
        for recording in self._recordings:
            group = self._actors[recording.key]
            actor = group[self._count % len(group)]
            requests[recording.teacher] = actor.rows.remote(
                batch.indices, batch.pass_index, recording.signals
            )
        self._asked[_key(batch)] = requests

    def signals(self, batch: Batch) -> TeacherSignals:
        import ray

        requests = self._asked.pop(_key(batch))
        started = time.perf_counter()
        answers = dict(zip(requests, ray.get(list(requests.values())), strict=True))
        self.seconds_waited += time.perf_counter() - started
        return TeacherSignals(
            {
                recording.teacher: {
                    signal.spec: _tensor(make_codec(signal.codec, signal.shape), rows)
                    for signal, rows in zip(
                        recording.signals, answers[recording.teacher], strict=True
                    )
                }
                for recording in self._recordings
            }
        )

    def close(self) -> None:
        self._asked.clear()


def _key(batch: Batch) -> tuple[int, bytes]:
    return batch.pass_index, batch.indices.tobytes()


def _decoded(column: Column, codec: Codec, rows: np.ndarray) -> np.ndarray:
    try:
        return codec.decode(rows)
    except IndexError as error:  # rows that no recorder of ours wrote: a class beyond the last
        raise StoreError(
            f"{column.path}: holds rows that '{codec.name}' cannot have written ({error}); delete "
            "the folder, and `python distill/run.py cache` records it anew"
        ) from error


def _tensor(codec: Codec, rows: np.ndarray) -> torch.Tensor:
    # What the object store hands out is read-only, and torch wants to be able to write.
    return torch.from_numpy(codec.decode(rows.copy()))


@final
class LocalSource:
    """Teachers inside the worker, run for every batch: the baseline that records replace."""

    def __init__(self, teachers: Mapping[str, tuple[Teacher, tuple[SignalSpec, ...]]]) -> None:
        self._teachers = teachers
        self.seconds_waited = 0.0

    def prefetch(self, batch: Batch) -> None:
        """Nothing to do: there is nobody else to work meanwhile."""

    def signals(self, batch: Batch) -> TeacherSignals:
        started = time.perf_counter()
        values = {
            name: {
                spec: torch.from_numpy(array)
                for spec, array in teacher.answer(
                    batch.images.numpy(), specs, samples=batch.indices
                ).items()
            }
            for name, (teacher, specs) in self._teachers.items()
        }
        self.seconds_waited += time.perf_counter() - started
        return TeacherSignals(values)

    def close(self) -> None: ...


@final
class NoSource:
    """Of a student without teachers."""

    seconds_waited = 0.0

    def prefetch(self, batch: Batch) -> None: ...

    def signals(self, batch: Batch) -> TeacherSignals:  # noqa: ARG002
        return TeacherSignals({})

    def close(self) -> None: ...
