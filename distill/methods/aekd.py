"""Distillation from several teachers, weighted so that their gradients agree as far as can be.

Du, You, Li, Wu, Wang, Qian, Zhang: Agree to Disagree, NeurIPS 2020.
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
    """L = ce_weight·CE + kd_weight·Σ w_k · mean τ²KL_k, one weight a teacher and batch."""

    # τ = 4 and equal weights: as ``kd``, so that only the teachers' weighting differs.
    temperature: float = Field(default=4.0, gt=0)
    ce_weight: float = Field(default=1.0, ge=0)
    kd_weight: float = Field(default=1.0, ge=0)
    # No teacher weighs more (the authors' ν = 1/(tolerance·K)).
    tolerance: float = Field(default=0.6, gt=0, le=1)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return {teacher: frozenset({SignalSpec(LOGITS)}) for teacher in teachers}

    def build(self, shapes: SignalShapes) -> Method:
        return AgreementWeighted(self)


@final
class AgreementWeighted(Method):
    """Cross-entropy and divergences weighted by the agreement of their gradients."""

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

        config, logits_TBC = self.config, teachers.logits()
        weights_T = losses.agreement_weights(
            student.logits, logits_TBC, temperature=config.temperature, tolerance=config.tolerance
        )
        kl_TB = losses.kl_divergence(student.logits, logits_TBC, temperature=config.temperature)
        every_TB = weights_T.unsqueeze(1).expand_as(kl_TB)
        return LossReport(
            {
                "ce": config.ce_weight * F.cross_entropy(student.logits, labels),
                "kd": config.kd_weight * weights_T @ kl_TB.mean(1),
            },
            weights={"teacher_weight": dict(zip(teachers.teachers, every_TB, strict=True))},
        )

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
