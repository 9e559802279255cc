"""One run of one student on one rank: build, resume, fit, test, file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import nn

from distill.batches import BatchPlan
from distill.config import Experiment
from distill.datasets import Data, load_data
from distill.engine import Fit, evaluate, fit
from distill.learners import LEARNERS, Compute, Learner
from distill.parallel import Workers
from distill.signals import LossReport, SignalSource
from distill.weight_tables import WeightTable
from orchestrator.blueprints import blueprint_of, keep_blueprint
from orchestrator.run_checkpoints import PROGRESS, restore, write_checkpoint
from orchestrator.runs import RunFolder
from orchestrator.sources import CachedSource, LocalSource, NoSource, ServedSource
from orchestrator.students import EpochEvent, Event, StartEvent, StudentJob
from orchestrator.teachers import Teacher
from orchestrator.tracking import RunTracker


def run_student(
    job: StudentJob,
    workers: Workers,
    device: torch.device,
    *,
    on_event: Callable[[Event], Any],
    barrier: Callable[[Mapping[str, float]], None],
) -> None:
    """Train, or go on training; test the last weights and those best on validation, if at all.

    Rank 0 alone writes. Raises DivergedError.
    """
    experiment = job.experiment
    data = load_data(experiment.data)
    learner = build_learner(
        job,
        data,
        Compute(
            device,
            workers,
            bfloat16=experiment.workers.precision == "bfloat16",
            channels_last=experiment.workers.channels_last,
        ),
    )
    task = Fit(
        plan=batch_plan(experiment, data, seed=job.seed),
        schedule=experiment.schedule,
        lr=experiment.optimizer.lr,
        validation=data.validation,
        device=device,
        workers=workers,
    )
    filing = _Filing(job, learner, task, data, on_event=on_event, barrier=barrier)
    source = signal_source(job)
    try:
        fit(task, learner, source, filing, start_epoch=filing.start_epoch)
        filing.finish()
    finally:
        source.close()
        filing.close()


def batch_plan(experiment: Experiment, data: Data, *, seed: int) -> BatchPlan:
    """The epochs' batches of an experiment and a seed."""
    return BatchPlan(
        split=data.train,
        views=experiment.views,
        batch_size=experiment.schedule.batch_size,
        num_passes=experiment.num_passes,
        seed=seed,
        plan_seed=experiment.signals.plan_seed,
    )


def build_learner(job: StudentJob, data: Data, compute: Compute) -> Learner:
    """A fresh student and method; their first weights depend on the seed alone."""
    experiment = job.experiment
    torch.manual_seed(job.seed)
    blueprint = blueprint_of(job, data, num_workers=compute.workers.size)
    normalized = blueprint.build_student()
    shapes = blueprint.shapes(
        normalized,
        classifiers={
            name: (
                torch.tensor(classifier.weight),
                None if classifier.bias is None else torch.tensor(classifier.bias),
            )
            for name, classifier in job.classifiers.items()
        },
        residents={r.name: r.build() for r in job.recipes} if job.method.resident else {},
    )
    student, method = normalized, job.method.build(shapes)
    if experiment.workers.sync_batchnorm:
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        nn.SyncBatchNorm.convert_sync_batchnorm(method.parts)  # changes what it holds in place
    return LEARNERS[job.method.learner](
        student, method, optimizer=experiment.optimizer, compute=compute
    )


def signal_source(job: StudentJob) -> SignalSource:
    """Where a run's signals come from, as its experiment says."""
    if not job.recordings:
        return NoSource()
    if job.experiment.signals.source == "cached":
        return CachedSource(job.recordings)
    if job.experiment.signals.source == "served":
        return ServedSource(job.recordings, job.actors)
    return LocalSource(
        {
            recording.teacher: (
                Teacher(recipe, job.plan),
                tuple(signal.spec for signal in recording.signals),
            )
            for recording, recipe in zip(job.recordings, job.recipes, strict=True)
        }
    )


@final
class _Filing:
    """Writes what a run leaves behind, epoch by epoch; picks up where an earlier attempt ended."""

    def __init__(
        self,
        job: StudentJob,
        learner: Learner,
        task: Fit,
        data: Data,
        *,
        on_event: Callable[[Event], Any],
        barrier: Callable[[Mapping[str, float]], None],
    ) -> None:
        self.job, self.learner, self.task, self.data = job, learner, task, data
        self.on_event, self.barrier = on_event, barrier
        self.folder = RunFolder(job.folder)
        self.is_writer = task.workers.rank == 0
        self.start_epoch, self.best_epoch, self.best = 0, 0, -1.0
        self.seconds, self.seconds_waiting = 0.0, 0.0
        self._resume()
        self.clock = time.perf_counter()
        if self.is_writer:
            self.folder.create(self._config())
            blueprint = blueprint_of(job, data, num_workers=task.workers.size)
            keep_blueprint(self.folder, blueprint)
            self.folder.write_environment()
            epochs = task.schedule.epochs
            self.tracker = RunTracker(
                self.folder,
                self._config(),
                self.start_epoch,
                num_epochs=epochs,
                class_names=data.class_names,
            )
            size = task.workers.size
            self.on_event(StartEvent(job.title, epochs, self.start_epoch, size))

    def _config(self) -> dict[str, Any]:
        """The run's own experiment: one method, one seed; ``train`` takes it as it is."""
        config = self.job.experiment.as_dict()
        return config | {
            "method": self.job.method.model_dump(mode="json"),
            "baselines": [],
            "seeds": [self.job.seed],
        }

    def _resume(self) -> None:
        path = self.folder.checkpoint("last")
        if path.is_file():
            progress = restore(path, self.learner, device=self.task.device)
            for name, value in progress.items():
                setattr(self, name, value)

    def on_step(self, step: int, report: LossReport, *, lr: float) -> None:
        if self.is_writer:
            terms = {name: float(term) for name, term in report.terms.items()}
            self.tracker.on_step(step, terms, lr)

    def on_weights(self, epoch: int, tables: Mapping[str, WeightTable]) -> None:
        if self.is_writer:
            step = (epoch + 1) * self.task.plan.steps_per_epoch
            self.tracker.on_weights(epoch, tables, step=step)

    def on_epoch(self, epoch: int, row: Mapping[str, float], learner: Learner) -> None:
        row = {**row, "workers": float(self.task.workers.size)}
        now = time.perf_counter()
        self.seconds += now - self.clock
        self.clock = now
        self.seconds_waiting += row["wait/signals_s"]
        self.start_epoch = epoch + 1
        names = ["last"]
        if not len(self.data.validation):
            self.best_epoch = epoch  # nothing says that another is better
        elif row["accuracy/validation"] > self.best:
            self.best, self.best_epoch = row["accuracy/validation"], epoch
            names = ["best", "last"]
        if self.is_writer:
            steps = self.task.plan.steps_per_epoch
            self.tracker.on_epoch(epoch, row, step=(epoch + 1) * steps)
            self._save(learner, names)
            self.on_event(EpochEvent(self.job.title, epoch + 1, row))
        self.barrier(row)

    def _save(self, learner: Learner, names: list[str]) -> None:
        """``last`` is written last: it alone says that the epoch is done."""
        state = {name: getattr(self, name) for name in PROGRESS} | {"learner": learner.state_dict()}
        for name in names:
            write_checkpoint(self.folder.checkpoint(name), state)

    def finish(self) -> None:
        """Report test accuracy, once: of the last weights and of those best on validation."""
        last = self._test()
        parameters = _count(self.learner.inference_model())
        best = last
        if self.best_epoch != self.task.schedule.epochs - 1:
            restore(self.folder.checkpoint("best"), self.learner, device=self.task.device)
            best = self._test()
        if not self.is_writer:
            return
        job = self.job
        result = {
            "experiment": job.experiment.name,
            "method": job.method.name,
            "digest": job.digest,
            "seed": job.seed,
            "epochs": job.experiment.schedule.epochs,
            "test_accuracy": last,
            "test_accuracy_best": best,
            "best_epoch": self.best_epoch,
            "validation_accuracy": self.best if len(self.data.validation) else math.nan,
            "seconds": self.seconds,
            "seconds_waiting": self.seconds_waiting,
            "parameters": parameters,
            "parameters_added": parameters - _count(self.learner.student),
            "workers": self.task.workers.size,
            "teachers": {
                name: {"accuracy": facts.accuracy, "parameters": facts.parameters}
                for name, facts in job.facts.items()
            },
            "signal_bytes": job.signal_bytes,
        }
        self.tracker.close(result)
        self.folder.write_result(result)

    def close(self) -> None:
        """Flush the events of a run that did not come to its end."""
        if self.is_writer and not self.folder.finished:
            self.tracker.close()

    def _test(self) -> float:
        """Test accuracy; NaN for a run that is not to be tested."""
        if not self.job.tested:
            return math.nan
        task = self.task
        model = self.learner.inference_model()
        return evaluate(model, self.data.test, device=task.device, workers=task.workers)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
