"""Hints: the student's stage, projected, is drawn to each teacher's.

Romero et al.: FitNets, ICLR 2015 (arXiv 1412.6550), in the one-step form of the distillation
benchmarks (Tian et al., ICLR 2020); several teachers' hints are averaged.
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
from distill.taps import Hint, needs_of, stage_hints

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn


@final
class Config(FeatureConfig):
    """L = CE + KD + hint_weight · mean over teachers of mean (P_k(F_s) − F_k)²."""

    # Weight and stage of the distillation benchmarks (Tian et al., ICLR 2020).
    hint_weight: float = Field(default=100.0, ge=0)
    stage: int = Field(default=2, ge=1)  # of the student, from 1; teachers' counterparts follow

    def hints(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
        """The stage beside each teacher's counterpart."""
        groups = [(self.stage, index) for index in range(len(teachers))]
        try:
            return stage_hints(groups, teachers, student)
        except ValueError as error:
            raise ValueError(f"stage: {error}") from None

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(self.hints(teachers, student), logits=self.logits_of(teachers))

    def build(self, shapes: SignalShapes) -> Method:
        return FitNet(self, shapes)


@final
class FitNet(Method):
    """Cross-entropy, distillation, and hints through one projector a teacher."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        from distill.adapters import ChannelProjector

        self.config = config
        self.hints = config.hints(shapes.taps, shapes.student)
        self.projectors = nn.ModuleList(
            ChannelProjector(
                student_channels=shapes.student[hint.student_tap][0],
                teacher_channels=shapes.teachers[hint.teacher][hint.spec][0],
            )
            for hint in self.hints
        )
        self.parts = self.projectors

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        import torch

        from distill.adapters import project_to_match

        distances: list[Tensor] = []
        for hint, projector in zip(self.hints, self.projectors, strict=True):
            pair = project_to_match(
                projector,
                student.features[hint.student_tap],
                teachers.of(hint.teacher, hint.spec),
            )
            distances.append(losses.mean_squared_error(*pair).mean())
        terms = self.config.ce_and_kd(student, teachers, labels)
        terms["hint"] = self.config.hint_weight * torch.stack(distances).mean()
        return LossReport(terms)

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
