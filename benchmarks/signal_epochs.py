"""A student's epoch by the source of its signals: what ``benchmarks.signals`` trains in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from benchmarks.workbench import Bench, epoch_plan, first_samples
from distill.batches import BatchPlan
from distill.config import Schedule
from distill.engine import Fit, fit
from distill.learners import Compute, Learner
from distill.methods import MethodConfig
from distill.parallel import ALONE
from distill.signals import Batch, LossReport, SignalSource, TeacherSignals
from distill.weight_tables import WeightTable
from orchestrator.fleet import Fleet
from orchestrator.run_student import build_learner
from orchestrator.sources import CachedSource, LocalSource, ServedSource
from orchestrator.teachers import Teacher


@final
class FreeSource:
    """Signals that cost nothing: the very tensors of each batch, gathered beforehand."""

    seconds_waited = 0.0

    def __init__(self, source: SignalSource, batches: Iterable[Batch]) -> None:
        self._ready = {batch.indices.tobytes(): source.signals(batch) for batch in batches}

    def prefetch(self, batch: Batch) -> None: ...

    def signals(self, batch: Batch) -> TeacherSignals:
        return self._ready[batch.indices.tobytes()]

    def close(self) -> None: ...


@final
@dataclass
class _Rate:
    """An observer that keeps the epoch's images a second."""

    images_per_s: float = 0.0

    def on_step(self, step: int, report: LossReport, *, lr: float) -> None: ...

    def on_weights(self, epoch: int, tables: Mapping[str, WeightTable]) -> None: ...

    def on_epoch(
        self,
        epoch: int,  # noqa: ARG002
        row: Mapping[str, float],
        learner: Learner,  # noqa: ARG002
    ) -> None:
        self.images_per_s = row["throughput/images_per_s"]


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """A student in training, and how to open the source of its signals."""

    bench: Bench
    plan: BatchPlan
    learner: Learner
    open_source: Callable[[], SignalSource]
    cpu_s: list[float] = field(default_factory=list)  # of this thread, epoch by epoch

    def epoch(self) -> float:
        """Images a second of one epoch; the source is opened and closed within it."""
        began = time.thread_time()
        rate = _Rate()
        task = Fit(
            plan=self.plan,
            schedule=Schedule(epochs=1, batch_size=self.plan.batch_size),
            lr=self.bench.experiment.optimizer.lr,
            validation=first_samples(self.bench.data.validation, 0),
            device=cpu().device,
        )
        source = self.open_source()
        try:
            fit(task, self.learner, source, rate)
        finally:
            source.close()
        self.cpu_s.append(time.thread_time() - began)
        return rate.images_per_s


def cpu() -> Compute:
    import torch

    return Compute(torch.device("cpu"))


def variant(
    bench: Bench,
    method: MethodConfig,
    open_source: Callable[[], SignalSource],
) -> Variant:
    learner = build_learner(bench.job(method), bench.data, cpu())
    return Variant(bench, epoch_plan(bench), learner, open_source)


def cached(bench: Bench, method: MethodConfig) -> Variant:
    """From the store. The source maps a pass when its first batch is asked for."""

    def open_source() -> SignalSource:
        for recording in bench.recordings:
            for file in Path(recording.root, recording.key).rglob("*.arrow"):
                file.read_bytes()
        return CachedSource(bench.recordings)

    return variant(bench, method, open_source)


def free(bench: Bench, method: MethodConfig) -> Variant:
    """From tensors in RAM."""
    store = CachedSource(bench.recordings)
    source = FreeSource(store, epoch_plan(bench).batches(0, ALONE))
    return variant(bench, method, lambda: source)


def local(bench: Bench, method: MethodConfig) -> Variant:
    """From teachers in this process."""
    teachers = {
        serving.recording.teacher: (
            Teacher(serving.recipe, serving.inputs),
            tuple(signal.spec for signal in serving.recording.signals),
        )
        for serving in bench.servings
    }
    return variant(bench, method, lambda: LocalSource(teachers))


def served(bench: Bench, method: MethodConfig, fleet: Fleet) -> Variant:
    """From one live actor a teacher."""
    actors = {serving.recording.key: fleet.actors(serving) for serving in bench.servings}
    return variant(bench, method, lambda: ServedSource(bench.recordings, actors))
