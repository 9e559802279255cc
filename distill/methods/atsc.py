"""Teachers that come towards the student, and lend it their classifiers.

Jang, Kim, Lim, Lee: Adaptive Teaching with Shared Classifier for Knowledge Distillation, 2024
(arXiv 2406.08528), on the projector of SimKD. Several teachers (our reading): one projector a
teacher, losses averaged, predicted probabilities averaged. The teachers run in training mode (our
reading), so that BatchNorm keeps up with weights that move.

Legend: T teachers, B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field

from distill import losses
from distill.methods.base import (
    AdaptiveTeacherMethod,
    LearnerName,
    Method,
    MethodConfig,
    Needs,
)
from distill.signals import (
    LOGITS,
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    Taps,
    TeacherName,
    TeacherSignals,
)
from distill.taps import last_hints

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from torch import Tensor, nn


@final
class Config(MethodConfig):
    """L = mean over teachers of feature_weight · mean (P_k(F_s) − F_k)² + penalty · ‖W_k − W_k⁰‖².

    Gradients reach the teachers; their classifiers learn from the labels, by an optimizer of their
    own with the same settings.
    """

    learner: ClassVar[LearnerName] = "adaptive_teacher"
    resident: ClassVar[bool] = True
    reads_classifiers: ClassVar[bool] = True

    feature_weight: float = Field(default=1.0, gt=0)  # the authors' b
    # The authors' w: 1 on CIFAR, 10 on ImageNet.
    penalty: float = Field(default=1.0, ge=0)
    # The authors' penalty is on matrices alone. BatchNorm's scales are then free, and where nothing
    # else holds them they shrink features to nothing, since nothing is easier to predict.
    penalty_on: Literal["matrices", "all"] = "matrices"
    factor: int = Field(default=2, ge=1)  # teacher's channels over the projector's inner ones

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        # Nothing can be recorded of a teacher that changes; that it has a last map is checked.
        return {hint.teacher: frozenset() for hint in last_hints(teachers, student)}

    def build(self, shapes: SignalShapes) -> Method:
        return AdaptiveTeaching(self, shapes)


@final
class AdaptiveTeaching(AdaptiveTeacherMethod):
    """The distances of projected last maps from teachers that move, at a price."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        from distill.adapters import BottleneckProjector, SharedHeads
        from distill.anchoring import AnchoredTeacher
        from distill.reductions import reduced_shape

        self.config = config
        self.hints = last_hints(shapes.taps, shapes.student)
        vectors = config.penalty_on == "all"
        self.teachers = [
            AnchoredTeacher(shapes.residents[hint.teacher], vectors=vectors) for hint in self.hints
        ]
        known = {
            name: {tap: shape for tap, shape in taps.items() if shape is not None}
            for name, taps in shapes.taps.items()
        }
        sizes = [
            reduced_shape({**known[hint.teacher], LOGITS: (shapes.num_classes,)}, hint.spec)
            for hint in self.hints
        ]
        projectors = nn.ModuleList(
            BottleneckProjector(
                student_channels=shapes.student[hint.student_tap][0],
                teacher_channels=size[0],
                factor=config.factor,
            )
            for hint, size in zip(self.hints, sizes, strict=True)
        )
        self.classifiers = nn.ModuleList(teacher.classifier for teacher in self.teachers)
        self.heads = SharedHeads(projectors, self.classifiers, sizes=[size[-1] for size in sizes])
        self.parts = nn.ModuleDict({"heads": self.heads, "teachers": nn.ModuleList(self.teachers)})

    def ask(self, images: UInt8[Tensor, "B c h w"]) -> TeacherSignals:
        from distill.reductions import reduce

        return TeacherSignals(
            {
                hint.teacher: {hint.spec: reduce(teacher(images), hint.spec)}
                for hint, teacher in zip(self.hints, self.teachers, strict=True)
            }
        )

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        return self.distil(student, teachers, labels, progress=progress)[0]

    def distil(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> tuple[LossReport, Float[Tensor, "B C"]]:
        import torch

        projected = self.heads.project(student.features[self.hints[0].student_tap])
        distances = [
            losses.mean_squared_error(features, teachers.of(hint.teacher, hint.spec)).mean()
            for hint, features in zip(self.hints, projected, strict=True)
        ]
        moves = [teacher.squared_drift() for teacher in self.teachers]
        report = LossReport(
            {
                "feature": self.config.feature_weight * torch.stack(distances).mean(),
                "penalty": self.config.penalty * torch.stack(moves).mean(),
            }
        )
        with torch.no_grad():
            return report, self.heads.classify(projected)

    def classifier_loss(
        self, images: UInt8[Tensor, "B c h w"], labels: Int[Tensor, " B"]
    ) -> LossReport:
        import torch
        from torch.nn import functional as F

        with torch.no_grad():
            maps = [
                teacher(images).features[hint.spec.tap]
                for hint, teacher in zip(self.hints, self.teachers, strict=True)
            ]
        # Before PyTorch 2.10 autocast keeps its copies of weights from there, without gradients.
        torch.clear_autocast_cache()
        logits = [
            teacher.classifier(features.mean((2, 3)))
            for teacher, features in zip(self.teachers, maps, strict=True)
        ]
        ce_T = torch.stack([F.cross_entropy(answer, labels) for answer in logits])
        hits = {
            f"teacher_accuracy/{hint.teacher}": (answer.argmax(1) == labels).float().mean()
            for hint, answer in zip(self.hints, logits, strict=True)
        }
        return LossReport({"teacher_ce": ce_T.mean()}, scalars=hits)

    def drift(self) -> Mapping[TeacherName, float]:
        return {
            hint.teacher: teacher.relative_drift()
            for hint, teacher in zip(self.hints, self.teachers, strict=True)
        }

    def inference_model(self, student: nn.Module) -> nn.Module:
        from distill.adapters import WithSharedHeads

        return WithSharedHeads(student, self.heads, tap=self.hints[0].student_tap)
