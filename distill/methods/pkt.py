"""Probabilistic transfer: the chance that a sample is another's neighbour, as teachers have it.

Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018
(arXiv 1803.10837), on pooled features; several teachers' losses are averaged. The loss is that of a
worker's own batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from pydantic import Field

from distill import losses
from distill.methods.base import FeatureConfig, Method, Needs
from distill.signals import (
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    Taps,
    TeacherName,
    TeacherSignals,
)
from distill.taps import needs_of, pooled_hints

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn


@final
class Config(FeatureConfig):
    """L = CE + KD + transfer_weight · mean over teachers of the mean of p·log(p/q)."""

    # Of the distillation benchmarks (Tian et al., ICLR 2020).
    transfer_weight: float = Field(default=30000.0, ge=0)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(pooled_hints(teachers, student), logits=self.logits_of(teachers))

    def build(self, shapes: SignalShapes) -> Method:
        return ProbabilisticTransfer(self, shapes)


@final
class ProbabilisticTransfer(Method):
    """Cross-entropy, distillation, and the relations of pooled features."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        self.config = config
        self.hints = pooled_hints(shapes.taps, shapes.student)
        self.parts = nn.Module()

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        import torch

        distances = [
            losses.probabilistic_transfer(
                losses.pooled_vector(student.features[hint.student_tap]),
                teachers.of(hint.teacher, hint.spec),
            ).mean()
            for hint in self.hints
        ]
        terms = self.config.ce_and_kd(student, teachers, labels)
        terms["transfer"] = self.config.transfer_weight * torch.stack(distances).mean()
        return LossReport(terms)

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
