"""The adaptive-teacher learner: student and teachers move towards each other (ATSC)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
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
from distill.methods.base import AdaptiveTeacherMethod
from distill.models.base import Normalized
from distill.signals import Batch, LossReport, ModelOutput, Progress, TeacherSignals


@final
class AdaptiveTeacherLearner:
    """Two optimizers of the same settings: one of the teachers' classifiers, one of all the rest.

    First student, adapters and teachers' bodies step together down the method's loss; then, on a
    fresh forward of the teachers so moved, their classifiers step down a loss of their own. The
    teachers are the method's: they answer here, for no record of them would stay true, and
    gradients reach them. Every worker has the same teachers, since gradients are averaged.
    Source: Jang et al. 2024, Adaptive Teaching with Shared Classifier (arXiv 2406.08528).
    """

    def __init__(
        self, student: Normalized, method: Method, *, optimizer: Optimizer, compute: Compute
    ) -> None:
        assert isinstance(method, AdaptiveTeacherMethod), "the method's learner is not this one"
        self.compute = compute
        self.method = method
        self._student = student
        place(student, compute)
        place(method.parts, compute)
        classifiers = list(method.classifiers.parameters())
        apart = set(classifiers)
        rest = [value for value in method.parts.parameters() if value not in apart]
        self.clip_norm = optimizer.clip_norm
        self.optimizer = build_optimizer([*student.parameters(), *rest], optimizer)
        self.classifier_optimizer = build_optimizer(classifiers, optimizer)

    @property
    def student(self) -> Normalized:
        return self._student

    def step(
        self,
        batch: Batch,
        signals: TeacherSignals,  # noqa: ARG002, nothing is recorded
        *,
        progress: Progress,
        lr: float,
    ) -> tuple[LossReport, ModelOutput]:
        """The output's logits are the shared classifiers', not the student's own."""
        labels = batch.labels.to(self.compute.device, non_blocking=True)
        images = self.compute.images(batch.images)
        with self.compute.autocast():
            output = answer(self._student, images)
            report, logits = self.method.distil(
                output, self.method.ask(images), labels, progress=progress
            )
        self._descend(self.optimizer, report, batch, lr=lr)
        with self.compute.autocast():
            own = self.method.classifier_loss(images, labels)
        self._descend(self.classifier_optimizer, own, batch, lr=lr)
        joint = LossReport(
            {**report.terms, **own.terms},
            weights={**report.weights, **own.weights},
            scalars={**report.scalars, **own.scalars},
        )
        return joint.detach(), detached(ModelOutput(logits, output.features))

    def _descend(
        self, optimizer: torch.optim.Optimizer, report: LossReport, batch: Batch, *, lr: float
    ) -> None:
        workers = self.compute.workers
        descend(
            optimizer,
            report.total,
            lr=lr,
            clip_norm=self.clip_norm,
            workers=workers,
            share=share_of(batch, workers),
        )

    def inference_model(self) -> nn.Module:
        return self.method.inference_model(self._student)

    def end_epoch(self) -> Mapping[str, float]:
        """``teacher_drift/NAME``: ‖W − W⁰‖/‖W⁰‖ of each teacher."""
        return {f"teacher_drift/{name}": drift for name, drift in self.method.drift().items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self._student.state_dict(),
            "method": self.method.parts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "classifier_optimizer": self.classifier_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._student.load_state_dict(state["student"])
        self.method.parts.load_state_dict(state["method"])
        load_optimizer(self.optimizer, state["optimizer"])
        load_optimizer(self.classifier_optimizer, state["classifier_optimizer"])
