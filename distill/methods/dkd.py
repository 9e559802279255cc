"""Decoupled distillation: the true class against the rest, and the rest among themselves.

Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022 (arXiv 2203.08679). Several
teachers' losses are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from pydantic import Field

from distill import losses
from distill.methods.base import Method, MethodConfig, Needs
from distill.signals import (
    LOGITS,
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    SignalSpec,
    Taps,
    TeacherName,
    TeacherSignals,
)

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn


@final
class Config(MethodConfig):
    """L = ce_weight·CE + warm-up · mean over teachers of τ²(alpha·TCKD + beta·NCKD)."""

    # The authors' setting for CIFAR-100 (alpha 1, τ 4, a linear rise over 20 epochs; beta is 8
    # for most of their pairs).
    temperature: float = Field(default=4.0, gt=0)
    ce_weight: float = Field(default=1.0, ge=0)
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=8.0, ge=0)
    warmup_epochs: int = Field(default=20, ge=0)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return {teacher: frozenset({SignalSpec(LOGITS)}) for teacher in teachers}

    def build(self, shapes: SignalShapes) -> Method:
        return DecoupledDistillation(self)


@final
class DecoupledDistillation(Method):
    """Cross-entropy and the mean decoupled divergence from the teachers."""

    def __init__(self, config: Config) -> None:
        from torch import nn

        self.config = config
        self.parts = nn.Module()

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        from torch.nn import functional as F

        config = self.config
        divergence_TB = losses.decoupled_divergence(
            student.logits,
            teachers.logits(),
            labels,
            temperature=config.temperature,
            alpha=config.alpha,
            beta=config.beta,
        )
        rise = min(1.0, (progress.epoch + 1) / max(config.warmup_epochs, 1))
        return LossReport(
            {
                "ce": config.ce_weight * F.cross_entropy(student.logits, labels),
                "dkd": rise * divergence_TB.mean(),
            }
        )

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
