"""What every method gives: a configuration that says what it needs, and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from pydantic import BaseModel, ConfigDict, Field, computed_field

from distill.signals import (
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    SignalSpec,
    Taps,
    TeacherName,
    TeacherSignals,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from torch import Tensor, nn

_PACKAGE = __name__.rpartition(".")[0]  # of the methods that are called by their files' names

LearnerName = Literal["standard", "bilevel", "adaptive_teacher"]
Needs = Mapping[TeacherName, frozenset[SignalSpec]]


class Method(ABC):
    """A loss over a student's outputs and its teachers' signals.

    Its trainable parts (adapters, gates) are submodules of ``parts``, so that learners can move,
    train and save them. It is no ``nn.Module`` itself: a method's file holds its configuration
    too, which is read long before torch is imported.
    """

    parts: nn.Module

    @abstractmethod
    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        """The weighted terms of one batch, each a scalar: the mean over its samples."""

    @abstractmethod
    def inference_model(self, student: nn.Module) -> nn.Module:
        """What is evaluated and exported: most often the student itself."""


@final
@dataclass(frozen=True, slots=True)
class MetaSettings:
    """How the weights of a ``BilevelMethod`` learn."""

    every: int  # student steps a meta step
    batch_size: int  # views of a meta step, from each worker's buffer
    buffer_size: int  # views that a worker keeps
    lr: float  # of Adam
    weight_decay: float


class BilevelMethod(Method, ABC):
    """A method some of whose parts learn from what the student becomes under them.

    ``adapters`` are trained with the student, by the gradient of ``loss``; ``weights`` apart from
    it, by the derivative through virtual steps down ``matching``. Both lie in ``parts``.
    """

    adapters: nn.Module
    weights: nn.Module
    meta: MetaSettings

    @abstractmethod
    def matching(self, student: ModelOutput, teachers: TeacherSignals) -> Tensor:
        """The part of the loss that ``weights`` weight, a scalar, differentiable by them."""


class AdaptiveTeacherMethod(Method, ABC):
    """A method that trains its teachers, too: they run in the worker, and lie in ``parts``.

    The student's loss trains all of ``parts`` but ``classifiers``, the teachers' last layers; they
    learn by ``classifier_loss`` alone, apart from the rest.
    """

    classifiers: nn.Module

    @abstractmethod
    def ask(self, images: UInt8[Tensor, "B c h w"]) -> TeacherSignals:
        """The teachers' answers of now, differentiable by their weights."""

    @abstractmethod
    def distil(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> tuple[LossReport, Float[Tensor, "B C"]]:
        """``loss``, and the logits of the ``inference_model`` for the same batch, detached."""

    @abstractmethod
    def classifier_loss(
        self, images: UInt8[Tensor, "B c h w"], labels: Int[Tensor, " B"]
    ) -> LossReport:
        """What trains the classifiers, on a forward pass of its own; no gradient goes further."""

    @abstractmethod
    def drift(self) -> Mapping[TeacherName, float]:
        """How far each teacher's weights have moved: ‖W − W⁰‖/‖W⁰‖."""


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """What of an experiment a method may lay down conditions for."""

    optimizer: str
    batch_size: int  # global
    num_workers: int  # at most
    sync_batchnorm: bool
    is_elastic: bool = False  # whether there may be fewer


# Of a configuration and the setting it would be trained in: what is wrong and how to mend it.
Requirement = Callable[[Any, Setting], str | None]


class MethodConfig(BaseModel, ABC):
    """A method's settings. Defaults are the published ones, each with its source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learner: ClassVar[LearnerName] = "standard"
    requirements: ClassVar[tuple[Requirement, ...]] = ()
    resident: ClassVar[bool] = False  # its teachers live in the worker, in SignalShapes
    reads_classifiers: ClassVar[bool] = False  # the teachers' last layers, in SignalShapes

    @computed_field
    @property
    def name(self) -> str:
        """The method's name: its file's in this package, or the module's of a user's own."""
        package, _, file = type(self).__module__.rpartition(".")
        return file if package == _PACKAGE else type(self).__module__

    @abstractmethod
    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        """What to record: for each teacher that is used, its signals.

        It is asked twice: before networks are built, when no tap's shape is known, and with all
        shapes. The taps of both answers must be the same; the reductions may differ.
        """

    @abstractmethod
    def build(self, shapes: SignalShapes) -> Method:
        """Make the method, with trainable parts that fit ``shapes``."""


class FeatureConfig(MethodConfig, ABC):
    """What the methods share that add a loss on features to cross-entropy and distillation."""

    # As ``kd``: the setting of the distillation benchmarks (Tian et al., ICLR 2020).
    temperature: float = Field(default=4.0, gt=0)
    ce_weight: float = Field(default=1.0, ge=0)
    kd_weight: float = Field(default=1.0, ge=0)

    def logits_of(self, teachers: Iterable[TeacherName]) -> Iterable[TeacherName]:
        """The teachers whose logits are read: all, or none."""
        return teachers if self.kd_weight else ()

    def ce_and_kd(
        self, student: ModelOutput, teachers: TeacherSignals, labels: Int[Tensor, " B"]
    ) -> dict[str, Tensor]:
        """The weighted terms beside the features' own: CE, and the mean of τ² KL over teachers."""
        from torch.nn import functional as F

        from distill import losses

        terms = {"ce": self.ce_weight * F.cross_entropy(student.logits, labels)}
        if self.kd_weight:
            kl_TB = losses.kl_divergence(
                student.logits, teachers.logits(), temperature=self.temperature
            )
            terms["kd"] = self.kd_weight * kl_TB.mean()
        return terms
