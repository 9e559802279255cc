"""MMKD: teachers' weights, for logits and for features, learnt from what the student becomes.

Zhang, Chen, Wang: Adaptive Multi-Teacher Knowledge Distillation with Meta-Learning, ICME 2023
(arXiv 2306.06634). The bilevel learner trains the weights; here are the losses.

Legend: T teachers, B samples of a worker's batch, N samples of any number, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self, final

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from distill import losses
from distill.methods.base import (
    BilevelMethod,
    LearnerName,
    MetaSettings,
    Method,
    MethodConfig,
    Needs,
    Requirement,
    Setting,
)
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
from distill.taps import last_hints, needs_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn


def _sgd_alone(config: Config, setting: Setting) -> str | None:  # noqa: ARG001
    if setting.optimizer == "sgd":
        return None
    return (
        f"'mmkd' differentiates through SGD's steps and cannot through those of "
        f"'{setting.optimizer}'; set optimizer.name: sgd"
    )


def _no_shared_statistics(config: Config, setting: Setting) -> str | None:  # noqa: ARG001
    if not setting.sync_batchnorm:
        return None
    return (
        "'mmkd' differentiates twice, which SyncBatchNorm cannot; set workers.sync_batchnorm: false"
    )


def _whole_batches(config: Config, setting: Setting) -> str | None:
    if setting.is_elastic:
        return (
            "'mmkd' has weights for one size of batch, a worker's, which changes with the number "
            "of workers; set workers.count in the place of workers.min and workers.max"
        )
    width, rest = divmod(setting.batch_size, setting.num_workers)
    if rest:
        return (
            f"'mmkd' has weights for one size of batch, and {setting.num_workers} workers cannot "
            f"share {setting.batch_size} samples evenly; set schedule.batch_size: "
            f"{setting.batch_size - rest}, or another workers.count"
        )
    rest = config.meta_batch % width
    if not rest:
        return None
    fitting = max(config.meta_batch - rest, width)
    return (
        f"'mmkd' weights features in batches of {width}, a worker's, and meta_batch "
        f"{config.meta_batch} is no multiple of it; set meta_batch: {fitting}"
    )


@final
class Config(MethodConfig):
    """L = CE + alpha·L_div + beta·L_feat; teachers weighted by nets that a meta step trains.

    ``meta_batch`` must be a multiple of a worker's batch: the feature net is as wide as one, and
    weights the meta step's views in groups of that size.
    """

    learner: ClassVar[LearnerName] = "bilevel"
    requirements: ClassVar[tuple[Requirement, ...]] = (
        _sgd_alone,
        _no_shared_statistics,
        _whole_batches,
    )

    # All of them are the authors' published settings.
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=100.0, ge=0)
    temperature: PositiveFloat = 4.0
    meta_every: PositiveInt = 5  # steps
    meta_batch: PositiveInt = 64  # views, from each worker's buffer
    buffer_size: PositiveInt = 256  # views, in each worker
    meta_lr: PositiveFloat = 1e-3
    meta_weight_decay: float = Field(default=1e-4, ge=0)

    @model_validator(mode="after")
    def _drawn_from_the_buffer(self) -> Self:
        if self.meta_batch > self.buffer_size:
            raise ValueError(
                f"meta_batch: {self.meta_batch} views cannot be drawn from a buffer of "
                f"{self.buffer_size}; set it lower, or buffer_size higher"
            )
        return self

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        # Whole maps: the feature net sees them unpooled.
        return needs_of(last_hints(teachers, student, form="whole"), logits=teachers)

    def build(self, shapes: SignalShapes) -> Method:
        return MMKD(self, shapes)


@final
class MMKD(BilevelMethod):
    """Weighted divergences of logits, and weighted distances of projected last feature maps."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        from distill import adapters

        self.config = config
        self.meta = MetaSettings(
            every=config.meta_every,
            batch_size=config.meta_batch,
            buffer_size=config.buffer_size,
            lr=config.meta_lr,
            weight_decay=config.meta_weight_decay,
        )
        hints = last_hints(shapes.taps, shapes.student, form="whole")
        self.specs = {hint.teacher: hint.spec for hint in hints}
        self.tap = hints[0].student_tap
        self.width = shapes.batch_size
        self.projectors = nn.ModuleList(
            adapters.ChannelProjector(
                student_channels=shapes.student[self.tap][0],
                teacher_channels=shapes.teachers[name][spec][0],
            )
            for name, spec in self.specs.items()
        )
        count = len(self.specs)
        self.logit_net = adapters.LogitWeightNet(num_teachers=count, num_classes=shapes.num_classes)
        self.feature_net = adapters.FeatureWeightNet(num_teachers=count, batch_size=self.width)
        self.adapters = self.projectors
        self.weights = nn.ModuleDict({"logits": self.logit_net, "features": self.feature_net})
        self.parts = nn.ModuleDict({"adapters": self.adapters, "weights": self.weights})

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        from torch.nn import functional as F

        logit_BT, feature_BT = (w.detach() for w in self.teacher_weights(student, teachers))
        div, feat = self.matching_terms(student, teachers, logit_BT, feature_BT)
        return LossReport(
            {"ce": F.cross_entropy(student.logits, labels), "div": div, "feat": feat},
            weights={
                "teacher_weight": dict(zip(self.specs, logit_BT.T, strict=True)),
                "feature_weight": dict(zip(self.specs, feature_BT.T, strict=True)),
            },
        )

    def matching(self, student: ModelOutput, teachers: TeacherSignals) -> Tensor:
        weights = self.teacher_weights(student, teachers)
        div, feat = self.matching_terms(student, teachers, *weights)
        return div + feat

    def teacher_weights(
        self, student: ModelOutput, teachers: TeacherSignals
    ) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"]]:
        """The weights of logits and of features, each row a distribution over teachers.

        Features are weighted in groups of a worker's batch. Raises ValueError for a group that is
        not whole.
        """
        import torch

        groups = [
            features.split(self.width)
            for features in (student.features[self.tap], *self._maps(teachers))
        ]
        feature_NT = torch.cat(
            [self.feature_net(own, rest) for own, *rest in zip(*groups, strict=True)]
        )
        return self.logit_net(student.logits, self._logits(teachers)), feature_NT

    def matching_terms(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        logit_NT: Float[Tensor, "N T"],
        feature_NT: Float[Tensor, "N T"],
    ) -> tuple[Tensor, Tensor]:
        """alpha·L_div and beta·L_feat under the given weights, scalars."""
        import torch

        from distill.adapters import project_to_match

        config, features = self.config, student.features[self.tap]
        kl_TN = losses.kl_divergence(
            student.logits, self._logits(teachers), temperature=config.temperature
        )
        maps = zip(self.projectors, self._maps(teachers), strict=True)
        distance_TN = torch.stack(
            [
                losses.mean_squared_error(*project_to_match(projector, features, teacher))
                for projector, teacher in maps
            ]
        )
        div = config.alpha * (logit_NT.T * kl_TN).sum(0).mean()
        return div, config.beta * (feature_NT.T * distance_TN).sum(0).mean()

    def _maps(self, teachers: TeacherSignals) -> list[Tensor]:
        return [teachers.of(name, spec) for name, spec in self.specs.items()]

    def _logits(self, teachers: TeacherSignals) -> Float[Tensor, "T N C"]:
        import torch

        return torch.stack([teachers.of(name, SignalSpec(LOGITS)) for name in self.specs])

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
