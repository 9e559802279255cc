"""fit and evaluate. The engine knows neither Ray nor where signals come from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch
from torch import nn

from distill.batches import BatchPlan, look_ahead, plain_batches
from distill.config import Schedule
from distill.datasets import Split
from distill.learners import Learner
from distill.models.base import evaluating
from distill.parallel import ALONE, Workers
from distill.signals import LossReport, ModelOutput, Progress, SignalSource
from distill.weight_tables import WeightSums, WeightTable

LOG_EVERY = 50  # steps
EVALUATION_BATCH = 512


class DivergedError(RuntimeError):
    """A loss is no longer finite."""


class Observer(Protocol):
    """Who is told how training goes. Every rank has one; most often only rank 0's writes."""

    def on_step(self, step: int, report: LossReport, *, lr: float) -> None:
        """Called every LOG_EVERY steps of the whole run, with the number of steps done."""
        ...

    def on_weights(self, epoch: int, tables: Mapping[str, WeightTable]) -> None:
        """Called before ``on_epoch`` if the method weighs its teachers: a table by kind."""
        ...

    def on_epoch(self, epoch: int, row: Mapping[str, float], learner: Learner) -> None:
        """Called after every epoch, before the next begins: the place to write a checkpoint."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Fit:
    """What to train, for how long, on what."""

    plan: BatchPlan
    schedule: Schedule
    lr: float
    validation: Split
    device: torch.device
    workers: Workers = ALONE

    def progress(self, epoch: int, step: int) -> Progress:
        return Progress(epoch, step, self.schedule.epochs, self.plan.steps_per_epoch)


def fit(
    task: Fit, learner: Learner, source: SignalSource, observer: Observer, *, start_epoch: int = 0
) -> None:
    """Train from ``start_epoch`` to the schedule's end. Raises DivergedError on a NaN or inf loss.

    Random numbers are seeded anew from (seed, epoch, rank) at every epoch, so that a run resumed
    at an epoch goes on exactly as one that was never broken.
    """
    for epoch in range(start_epoch, task.schedule.epochs):
        _seed(task.plan.seed, epoch, task.workers.rank)
        row, tables = _train_epoch(task, learner, source, observer, epoch=epoch)
        row |= learner.end_epoch()
        # A resident BatchNorm has statistics of its own worker's batches: agree before evaluating.
        model = learner.inference_model()
        task.workers.average_buffers(model)
        if len(task.validation):
            row["accuracy/validation"] = evaluate(
                model, task.validation, device=task.device, workers=task.workers
            )
        if tables:
            observer.on_weights(epoch, tables)
        observer.on_epoch(epoch, row, learner)


def evaluate(
    model: nn.Module, split: Split, *, device: torch.device, workers: Workers = ALONE
) -> float:
    """Top-1 accuracy in 0..1 on images as they are; workers share the split."""
    correct = torch.zeros((), dtype=torch.int64, device=device)
    rows = np.arange(len(split))[workers.share(len(split))]
    with evaluating(model), torch.inference_mode():
        for batch in plain_batches(split, rows, batch_size=EVALUATION_BATCH):
            output: ModelOutput = model(batch.images.to(device))
            correct += (output.logits.argmax(1) == batch.labels.to(device)).sum()
    return float(workers.sum(correct)) / len(split)


def learning_rate(schedule: Schedule, base: float, progress: Progress) -> float:
    """The rate of a step: a function of progress alone, so there is no state to save."""
    done = progress.fraction
    if done < schedule.warmup:
        per_step = 1 / (progress.num_epochs * progress.steps_per_epoch)
        return base * min(1.0, (done + per_step) / schedule.warmup)
    if schedule.kind == "cosine":  # Loshchilov and Hutter, ICLR 2017, without restarts
        after_warmup = (done - schedule.warmup) / (1 - schedule.warmup)
        return base * 0.5 * (1 + math.cos(math.pi * after_warmup))
    if schedule.kind == "step":
        return base * schedule.gamma ** sum(done >= point for point in schedule.milestones)
    return base


def _train_epoch(
    task: Fit, learner: Learner, source: SignalSource, observer: Observer, *, epoch: int
) -> tuple[dict[str, float], dict[str, WeightTable]]:
    learner.inference_model().train()
    learner.student.train()
    sums, weights = _Sums(task.device), WeightSums(task.device)
    started, waited, lr, step = time.perf_counter(), source.seconds_waited, 0.0, 0
    for batch, is_new in look_ahead(task.plan.batches(epoch, task.workers)):
        if is_new:
            source.prefetch(batch)
            continue
        progress = task.progress(epoch, step)
        lr = learning_rate(task.schedule, task.lr, progress)
        report, output = learner.step(batch, source.signals(batch), progress=progress, lr=lr)
        sums.add(report, output, batch.labels)
        weights.add(report, batch.labels, num_classes=output.logits.shape[1])
        step += 1
        total_steps = epoch * task.plan.steps_per_epoch + step
        if total_steps % LOG_EVERY == 0:
            observer.on_step(total_steps, report, lr=lr)
    row = sums.means(task.workers)
    seconds = time.perf_counter() - started
    if not math.isfinite(row["loss/total"]):
        terms = ", ".join(f"{name} = {value:g}" for name, value in row.items() if "loss/" in name)
        raise DivergedError(f"epoch {epoch}: the loss is not finite ({terms}); try a lower lr")
    if not all(bool(value.isfinite().all()) for value in learner.inference_model().parameters()):
        raise DivergedError(f"epoch {epoch}: weights are not finite after it; try a lower lr")
    tables = weights.tables(task.workers)
    for kind, table in tables.items():
        row |= table.scalars(kind)
    row |= {
        "learning_rate": lr,
        "throughput/images_per_s": step * task.plan.batch_size / seconds,
        "wait/signals_s": source.seconds_waited - waited,
        "seconds/epoch": seconds,
    }
    return row, tables


@final
class _Sums:
    """Running sums of an epoch, kept on the device: a step never waits for its own numbers."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, report: LossReport, output: ModelOutput, labels: torch.Tensor) -> None:
        size = len(labels)
        with torch.no_grad():
            hits = (output.logits.detach().argmax(1) == labels.to(self.device)).sum()
            self._add("accuracy/train", hits)
            self._add("samples", torch.full((), float(size), device=self.device))
            self._add("loss/total", report.total * size)
            for name, term in report.terms.items():
                self._add(f"loss/{name}", term * size)
            for name, value in report.scalars.items():
                self._add(f"method/{name}", value * size)

    def _add(self, name: str, value: torch.Tensor) -> None:
        value = value.to(torch.float64)
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self, workers: Workers) -> dict[str, float]:
        """Means over all samples of all workers."""
        totals = workers.sum(torch.stack(list(self.sums.values()))).tolist()
        sums = dict(zip(self.sums, totals, strict=True))
        samples = sums.pop("samples")
        return {name: value / samples for name, value in sums.items()}


def _seed(seed: int, epoch: int, rank: int) -> None:
    state = np.random.SeedSequence([seed, epoch, rank]).generate_state(2, np.uint32)
    torch.manual_seed(int(state[0]) << 32 | int(state[1]))
