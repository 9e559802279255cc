"""Relational distillation: distances and angles between samples, as the teachers see them.

Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019 (arXiv 1904.05068), on pooled
features; several teachers' losses are averaged. The loss is that of a worker's own batch.
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
    """L = CE + KD + mean over teachers of distance_weight·L_D + angle_weight·L_A."""

    # The authors' weights.
    distance_weight: float = Field(default=25.0, ge=0)
    angle_weight: float = Field(default=50.0, ge=0)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(pooled_hints(teachers, student), logits=self.logits_of(teachers))

    def build(self, shapes: SignalShapes) -> Method:
        return RelationalDistillation(self, shapes)


@final
class RelationalDistillation(Method):
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

        own = {
            tap: losses.relations(losses.pooled_vector(student.features[tap]))
            for tap in {hint.student_tap for hint in self.hints}
        }
        distances = [
            losses.relational_loss(
                own[hint.student_tap],
                losses.relations(teachers.of(hint.teacher, hint.spec)),
                distance_weight=self.config.distance_weight,
                angle_weight=self.config.angle_weight,
            ).mean()
            for hint in self.hints
        ]
        terms = self.config.ce_and_kd(student, teachers, labels)
        terms["relation"] = torch.stack(distances).mean()
        return LossReport(terms)

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
