"""Similarity preserving: samples alike to a teacher become alike to the student.

Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019 (arXiv 1907.09682), on the last
feature maps; several teachers' losses are averaged. The loss is that of a worker's own batch.
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
from distill.taps import Hint, last_hints, needs_of

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn


@final
class Config(FeatureConfig):
    """L = CE + KD + similarity_weight · mean over teachers of the Gram matrices' distance."""

    # The authors' weight, as the distillation benchmarks have it (Tian et al., ICLR 2020).
    similarity_weight: float = Field(default=3000.0, ge=0)

    def hints(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
        """The last maps; whole, for a pooled map has another Gram matrix."""
        return last_hints(teachers, student, form="whole")

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(self.hints(teachers, student), logits=self.logits_of(teachers))

    def build(self, shapes: SignalShapes) -> Method:
        return SimilarityPreserving(self, shapes)


@final
class SimilarityPreserving(Method):
    """Cross-entropy, distillation, and the distance of the batch's similarities."""

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

        own = {
            tap: losses.similarities(student.features[tap])
            for tap in {hint.student_tap for hint in self.hints}
        }
        distances = [
            losses.similarity_preserving(
                own[hint.student_tap], losses.similarities(teachers.of(hint.teacher, hint.spec))
            ).mean()
            for hint in self.hints
        ]
        terms = self.config.ce_and_kd(student, teachers, labels)
        terms["similarity"] = self.config.similarity_weight * torch.stack(distances).mean()
        return LossReport(terms)

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
