"""Distillation from several teachers, each weighted by how right it is about a sample.

Zhang, Chen, Wang: Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022
(arXiv 2201.00007). A teacher's feature counts by what its classifier says of the student's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

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
    from jaxtyping import Float, Int
    from torch import Tensor, nn


@final
class Config(FeatureConfig):
    """L = CE + kd_weight·mean of w·τ²KL + feature_weight·mean of v·(P_k(F_s) − F_k)².

    Means are over samples and teachers. ``feature_weight: 0`` records no features.
    """

    reads_classifiers: ClassVar[bool] = True

    feature_weight: float = Field(default=50.0, ge=0)  # the authors' β

    def hints(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
        """The last maps, the larger pooled to the smaller; none without their term."""
        return last_hints(teachers, student) if self.feature_weight else ()

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(self.hints(teachers, student), logits=self.logits_of(teachers))

    def build(self, shapes: SignalShapes) -> Method:
        return ConfidenceAware(self, shapes)


@final
class ConfidenceAware(Method):
    """Cross-entropy, and divergences and feature distances weighted by confidence."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        from distill.adapters import ChannelProjector, frozen_classifier

        self.config = config
        self.hints = config.hints(shapes.taps, shapes.student)
        self.projectors = nn.ModuleList(
            ChannelProjector(
                student_channels=shapes.student[hint.student_tap][0],
                teacher_channels=shapes.teachers[hint.teacher][hint.spec][0],
            )
            for hint in self.hints
        )
        self.classifiers = nn.ModuleList(
            frozen_classifier(*shapes.classifiers[hint.teacher]) for hint in self.hints
        )
        self.parts = nn.ModuleDict({"projectors": self.projectors, "classifiers": self.classifiers})

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        from torch.nn import functional as F

        config, names = self.config, teachers.teachers
        terms = {"ce": config.ce_weight * F.cross_entropy(student.logits, labels)}
        weights: dict[str, dict[TeacherName, Tensor]] = {}
        if config.kd_weight:
            logits_TBC = teachers.logits()
            weights_TB = losses.confidence_weights(logits_TBC, labels)
            kl_TB = losses.kl_divergence(student.logits, logits_TBC, temperature=config.temperature)
            terms["kd"] = config.kd_weight * (weights_TB * kl_TB).mean()
            weights["teacher_weight"] = dict(zip(names, weights_TB, strict=True))
        if config.feature_weight:
            distances_TB, answers_TBC = self._matched(student, teachers)
            weights_TB = losses.confidence_weights(answers_TBC, labels)
            terms["feature"] = config.feature_weight * (weights_TB * distances_TB).mean()
            weights["feature_weight"] = dict(zip(names, weights_TB, strict=True))
        return LossReport(terms, weights=weights)

    def _matched(
        self, student: ModelOutput, teachers: TeacherSignals
    ) -> tuple[Float[Tensor, "T B"], Float[Tensor, "T B C"]]:
        """The distance of every projected map, and what its teacher's classifier says of it."""
        import torch

        from distill.adapters import project_to_match

        distances: list[Tensor] = []
        answers: list[Tensor] = []
        parts = zip(self.hints, self.projectors, self.classifiers, strict=True)
        for hint, projector, classifier in parts:
            projected, target = project_to_match(
                projector,
                student.features[hint.student_tap],
                teachers.of(hint.teacher, hint.spec),
            )
            distances.append(losses.mean_squared_error(projected, target))
            answers.append(classifier(losses.pooled_vector(projected)))
        return torch.stack(distances), torch.stack(answers)

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
