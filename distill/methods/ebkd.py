"""Distillation from several teachers, each weighted by how sure it is of a sample.

Kwon, Na, Lee, Kim: Adaptive Knowledge Distillation Based on Entropy, ICASSP 2020.
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
    """L = ce_weight·CE + kd_weight·mean over samples and teachers of w·τ²KL, w = 1 − H_k/ΣH."""

    # τ = 4 and equal weights: as ``kd``, so that only the teachers' weighting differs.
    temperature: float = Field(default=4.0, gt=0)
    ce_weight: float = Field(default=1.0, ge=0)
    kd_weight: float = Field(default=1.0, ge=0)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return {teacher: frozenset({SignalSpec(LOGITS)}) for teacher in teachers}

    def build(self, shapes: SignalShapes) -> Method:
        return EntropyWeighted(self)


@final
class EntropyWeighted(Method):
    """Cross-entropy and divergences weighted by the teachers' entropies."""

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

        logits_TBC = teachers.logits()
        weights_TB = losses.entropy_weights(logits_TBC)
        kl_TB = losses.kl_divergence(
            student.logits, logits_TBC, temperature=self.config.temperature
        )
        return LossReport(
            {
                "ce": self.config.ce_weight * F.cross_entropy(student.logits, labels),
                "kd": self.config.kd_weight * (weights_TB * kl_TB).mean(),
            },
            weights={"teacher_weight": dict(zip(teachers.teachers, weights_TB, strict=True))},
        )

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
