"""Attention transfer: each stage's spatial attention is drawn to the teachers'.

Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017 (arXiv 1612.03928); summed over
stages, averaged over teachers.
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
from distill.taps import Hint, every_group, needs_of, stage_hints

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn


@final
class Config(FeatureConfig):
    """L = CE + KD + attention_weight · Σ over stages of the teachers' mean of mean (A_s − A_k)²."""

    # Of the distillation benchmarks (Tian et al., ICLR 2020).
    attention_weight: float = Field(default=1000.0, ge=0)

    def hints(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
        """Every stage beside every teacher's counterpart, as attention maps."""
        groups = every_group(teachers, student)
        return stage_hints(groups, teachers, student, form="attention")

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(self.hints(teachers, student), logits=self.logits_of(teachers))

    def build(self, shapes: SignalShapes) -> Method:
        return AttentionTransfer(self, shapes)


@final
class AttentionTransfer(Method):
    """Cross-entropy, distillation, and distances of attention maps."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        self.config = config
        self.hints = config.hints(shapes.taps, shapes.student)
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

        own: dict[tuple[str, int], Tensor] = {}  # by tap and size: several teachers share one
        distances: list[Tensor] = []
        for hint in self.hints:
            goal = teachers.of(hint.teacher, hint.spec)
            key = hint.student_tap, goal.shape[1]
            if key not in own:
                own[key] = losses.attention_like(student.features[hint.student_tap], goal)
            distances.append(losses.mean_squared_error(own[key], goal).mean())
        attention = torch.stack(distances).sum() / len(teachers.teachers)
        terms = self.config.ce_and_kd(student, teachers, labels)
        terms["attention"] = self.config.attention_weight * attention
        return LossReport(terms)

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
