"""The standard learner: one optimizer, one loss, every trainable part together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import nn

from distill.config import Optimizer
from distill.learners.base import (
    Compute,
    answer,
    build_optimizer,
    descend,
    detached,
    load_optimizer,
    place,
    share_of,
)
from distill.methods import Method
from distill.models.base import Normalized
from distill.signals import Batch, LossReport, ModelOutput, Progress, TeacherSignals


@final
class StandardLearner:
    """One optimizer updates student and method together with the gradient of the total loss.

    ``parameters`` are those that it updates, by default all of both.
    """

    def __init__(
        self,
        student: Normalized,
        method: Method,
        *,
        optimizer: Optimizer,
        compute: Compute,
        parameters: Sequence[nn.Parameter] | None = None,
    ) -> None:
        self.compute = compute
        self.method = method
        self._student = student
        place(student, compute)
        place(method.parts, compute)
        if parameters is None:
            parameters = [*student.parameters(), *method.parts.parameters()]
        self.clip_norm = optimizer.clip_norm
        self.optimizer = build_optimizer(parameters, optimizer)

    @property
    def student(self) -> Normalized:
        return self._student

    def step(
        self, batch: Batch, signals: TeacherSignals, *, progress: Progress, lr: float
    ) -> tuple[LossReport, ModelOutput]:
        labels = batch.labels.to(self.compute.device, non_blocking=True)
        with self.compute.autocast():
            output = answer(self._student, self.compute.images(batch.images))
            report = self.method.loss(
                output, self.compute.signals(signals), labels, progress=progress
            )
        workers = self.compute.workers
        descend(
            self.optimizer,
            report.total,
            lr=lr,
            clip_norm=self.clip_norm,
            workers=workers,
            share=share_of(batch, workers),
        )
        return report.detach(), detached(output)

    def inference_model(self) -> nn.Module:
        return self.method.inference_model(self._student)

    def end_epoch(self) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self._student.state_dict(),
            "method": self.method.parts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._student.load_state_dict(state["student"])
        self.method.parts.load_state_dict(state["method"])
        load_optimizer(self.optimizer, state["optimizer"])
