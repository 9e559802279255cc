"""Where signals come from: the store, or a teacher in the worker. To the engine they are alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from distill.signals import Batch, SignalSpec, TeacherSignals
from orchestrator.codecs import Codec, make_codec
from orchestrator.recording import Recording
from orchestrator.store import Column, SignalStore

if TYPE_CHECKING:
    from orchestrator.teachers import Teacher

POLL_S = 0.2


@final
class CachedSource:
    """Signals gathered from memory-mapped records; waits for the pass it needs and no other."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._columns: dict[str, dict[SignalSpec, tuple[Column, Codec]]] = {}
        for recording in recordings:
            store = SignalStore(Path(recording.root), recording.identity)
            columns = self._columns[recording.teacher] = {}
            for signal in recording.signals:
                codec = make_codec(signal.codec, signal.shape)
                columns[signal.spec] = store.column(signal.spec, codec), codec
        self._open: dict[tuple[str, SignalSpec], np.ndarray] = {}
        self._pass = -1
        self.seconds_waited = 0.0

    def prefetch(self, batch: Batch) -> None:
        """Nothing to do: the page cache reads ahead better than we would."""

    def signals(self, batch: Batch) -> TeacherSignals:
        if batch.pass_index != self._pass:
            self._open_pass(batch.pass_index)
        return TeacherSignals(
            {
                teacher: {
                    spec: torch.from_numpy(codec.decode(self._open[teacher, spec][batch.indices]))
                    for spec, (_, codec) in columns.items()
                }
                for teacher, columns in self._columns.items()
            }
        )

    def _open_pass(self, pass_index: int) -> None:
        started = time.perf_counter()
        self._open.clear()
        for teacher, columns in self._columns.items():
            for spec, (column, _) in columns.items():
                while not column.is_complete(pass_index):
                    time.sleep(POLL_S)
                self._open[teacher, spec] = column.open_pass(pass_index)
        self._pass = pass_index
        self.seconds_waited += time.perf_counter() - started

    def close(self) -> None:
        self._open.clear()


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
                for spec, array in teacher.answer(batch.images.numpy(), specs).items()
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
