"""Knowledge distillation from one teacher, or from the mean of several teachers' losses (AVER).

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531); with
several teachers, every teacher's divergence counts alike, as in You et al., KDD 2017.
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
    """L = ce_weight * CE + kd_weight * mean over teachers of τ² KL(teacher ‖ student)."""

    # τ = 4 and equal weights: the setting of the distillation benchmarks (Tian et al., ICLR 2020).
    temperature: float = Field(default=4.0, gt=0)
    ce_weight: float = Field(default=1.0, ge=0)
    kd_weight: float = Field(default=1.0, ge=0)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return {teacher: frozenset({SignalSpec(LOGITS)}) for teacher in teachers}

    def build(self, shapes: SignalShapes) -> Method:
        return KnowledgeDistillation(self)


@final
class KnowledgeDistillation(Method):
    """Cross-entropy and the mean divergence from the teachers."""

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

        kl_TB = losses.kl_divergence(
            student.logits, teachers.logits(), temperature=self.config.temperature
        )
        return LossReport(
            {
                "ce": self.config.ce_weight * F.cross_entropy(student.logits, labels),
                "kd": self.config.kd_weight * kl_TB.mean(),
            }
        )

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
