"""The student's trunk behind a projector, answering through the teachers' own classifiers.

Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier, CVPR
2022 (arXiv 2203.14001). Several teachers (our reading): one projector a teacher, losses averaged,
predicted probabilities averaged. The student's own last layer is neither trained nor used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

from pydantic import Field

from distill import losses
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
from distill.taps import Hint, last_hints, needs_of

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn


@final
class Config(MethodConfig):
    """L = feature_weight · mean over teachers of mean (P_k(F_s) − F_k)²; no other term."""

    reads_classifiers: ClassVar[bool] = True

    feature_weight: float = Field(default=1.0, gt=0)  # the authors' β
    factor: int = Field(default=2, ge=1)  # teacher's channels over the projector's inner ones

    def hints(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
        """The last maps, the larger pooled to the smaller."""
        return last_hints(teachers, student)

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(self.hints(teachers, student))

    def build(self, shapes: SignalShapes) -> Method:
        return ReusedClassifier(self, shapes)


@final
class ReusedClassifier(Method):
    """The distances of projected last maps; inference goes through the teachers' classifiers."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        from distill.adapters import BottleneckProjector, SharedHeads, frozen_classifier

        self.config = config
        self.hints = config.hints(shapes.taps, shapes.student)
        sizes = [shapes.teachers[hint.teacher][hint.spec] for hint in self.hints]
        self.projectors = nn.ModuleList(
            BottleneckProjector(
                student_channels=shapes.student[hint.student_tap][0],
                teacher_channels=size[0],
                factor=config.factor,
            )
            for hint, size in zip(self.hints, sizes, strict=True)
        )
        self.heads = SharedHeads(
            self.projectors,
            nn.ModuleList(frozen_classifier(*shapes.classifiers[h.teacher]) for h in self.hints),
            sizes=[size[-1] for size in sizes],
        )
        self.parts = self.heads

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        import torch

        projected = self.heads.project(student.features[self.hints[0].student_tap])
        distances: list[Tensor] = []
        for hint, features in zip(self.hints, projected, strict=True):
            target = teachers.of(hint.teacher, hint.spec)
            distances.append(losses.mean_squared_error(features, target).mean())
        with torch.no_grad():
            hits = self.heads.classify(projected).argmax(1) == labels
        return LossReport(
            {"feature": self.config.feature_weight * torch.stack(distances).mean()},
            # The student's own last layer is untrained: this is the accuracy that counts.
            scalars={"shared_accuracy": hits.to(student.logits.dtype).mean()},
        )

    def inference_model(self, student: nn.Module) -> nn.Module:
        from distill.adapters import WithSharedHeads

        return WithSharedHeads(student, self.heads, tap=self.hints[0].student_tap)
