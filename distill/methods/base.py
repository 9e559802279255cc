"""What every method gives: a configuration that says what it needs, and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from distill.signals import (
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    SignalSpec,
    TeacherName,
    TeacherSignals,
)

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn

LearnerName = Literal["standard"]
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


class MethodConfig(BaseModel, ABC):
    """A method's settings. Defaults are the published ones, each with its source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learner: ClassVar[LearnerName] = "standard"

    @computed_field
    @property
    def name(self) -> str:
        """The method's name: its file's."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def needs(self, teachers: Sequence[TeacherName], student_taps: Sequence[str]) -> Needs:
        """What to record: for each teacher that is used, its signals."""

    @abstractmethod
    def build(self, shapes: SignalShapes) -> Method:
        """Make the method, with trainable parts that fit ``shapes``."""
