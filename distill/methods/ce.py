"""Cross-entropy alone: a student without teachers, the baseline that every method must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from distill.methods.base import Method, MethodConfig, Needs
from distill.signals import (
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    Taps,
    TeacherName,
    TeacherSignals,
)

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn


@final
class Config(MethodConfig):
    """No settings."""

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return {}

    def build(self, shapes: SignalShapes) -> Method:
        return CrossEntropy()


@final
class CrossEntropy(Method):
    """The mean cross-entropy of the student's logits and the labels."""

    def __init__(self) -> None:
        from torch import nn

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

        return LossReport({"ce": F.cross_entropy(student.logits, labels)})

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
