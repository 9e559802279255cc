"""Distillation by squared distances of logits: no temperature, no softmax.

Ba and Caruana: Do Deep Nets Really Need to be Deep?, NeurIPS 2014 (arXiv 1312.6184), compare logits
by L2; Kim et al., IJCAI 2021 (arXiv 2105.08919), against KL divergence. With several teachers, the
mean of their distances (our reading).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from pydantic import Field

from distill.methods import Method, MethodConfig
from distill.methods.base import Needs
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
    """L = ce_weight · CE + mse_weight · mean over teachers and classes of (z_s − z_t)²."""

    ce_weight: float = Field(default=1.0, ge=0)
    mse_weight: float = Field(default=1.0, ge=0)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:  # noqa: ARG002
        return {teacher: frozenset({SignalSpec(LOGITS)}) for teacher in teachers}

    def build(self, shapes: SignalShapes) -> Method:  # noqa: ARG002
        return LogitRegression(self)


@final
class LogitRegression(Method):
    """Cross-entropy and the squared distance from the teachers' logits, without trained parts."""

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
        progress: Progress,  # noqa: ARG002
    ) -> LossReport:
        from torch.nn import functional as F

        squares_TBC = (student.logits - teachers.logits()).square()
        return LossReport(
            {
                "ce": self.config.ce_weight * F.cross_entropy(student.logits, labels),
                "mse": self.config.mse_weight * squares_TBC.mean(),
            }
        )

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
