"""The nouns that every room shares: batches, model outputs, teacher signals, losses.

Importing this module does not import torch: a configuration is checked in milliseconds.

Legend: T teachers, B samples of one worker's batch, C classes, c channels, h height, w width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int, UInt8
    from torch import Tensor

    from distill.models.base import Normalized

TeacherName = str
# A network's taps from the image to the classifier, each with the shape of one sample's feature;
# None where it is not known yet: a configuration is checked before any network is built.
Taps = Mapping[str, tuple[int, ...] | None]

LOGITS = "logits"
_REDUCTION = re.compile(r"gap|attention(?:[1-9]\d*)?|pool[1-9]\d*")


@final
@dataclass(frozen=True, order=True, slots=True)
class SignalSpec:
    """What a teacher is asked for: a tap, and the reduction it computes before anything is moved.

    Written ``tap`` or ``tap@reduction``; reductions are ``gap`` [c], ``poolN`` [c, N, N] (adaptive
    average), ``attention`` [h*w] (L2-normalised channel mean of squares) and ``attentionN`` [N*N]
    (the same of the map pooled to N×N).
    """

    tap: str
    reduction: str = ""

    @classmethod
    def parse(cls, text: str) -> SignalSpec:
        """Read ``stage3@pool4``. Raises ValueError naming the text and the reductions there are."""
        tap, at, reduction = text.partition("@")
        if not tap or (at and not _REDUCTION.fullmatch(reduction)):
            raise ValueError(
                f"'{text}' is not a signal; write TAP or TAP@REDUCTION, "
                "with gap, attention, attentionN or poolN (as in stage3@pool4) for REDUCTION"
            )
        if tap == LOGITS and reduction:
            raise ValueError(f"'{text}': logits are one number a class and take no reduction")
        return cls(tap, reduction)

    def __str__(self) -> str:
        return f"{self.tap}@{self.reduction}" if self.reduction else self.tap


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """One worker's share of a global batch. ``(indices[b], views[b])`` names input b for ever."""

    indices: np.ndarray  # int64 [B], positions in the training split
    views: np.ndarray  # int64 [B], below the view space's num_views
    pass_index: int  # the recorded pass that holds every one of these views
    images: UInt8[Tensor, "B c h w"]  # rendered, not normalised: each model brings its own
    labels: Int[Tensor, " B"]
    num_global: int  # samples in the global batch, over all workers

    def __len__(self) -> int:
        return len(self.indices)


@final
@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What a network returns: logits, and features by tap (after the stage's last ReLU)."""

    logits: Float[Tensor, "B C"]
    features: Mapping[str, Tensor]


@final
@dataclass(frozen=True, slots=True)
class TeacherSignals:
    """Each teacher's answers for one batch, in the experiment's order of teachers."""

    values: Mapping[TeacherName, Mapping[SignalSpec, Tensor]]

    @property
    def teachers(self) -> tuple[TeacherName, ...]:
        return tuple(self.values)

    def of(self, teacher: TeacherName, spec: SignalSpec) -> Tensor:
        """One teacher's signal [B, ...]."""
        return self.values[teacher][spec]

    def logits(self) -> Float[Tensor, "T B C"]:
        """Every teacher's logits, stacked."""
        import torch

        spec = SignalSpec(LOGITS)
        return torch.stack([signals[spec] for signals in self.values.values()])


@final
@dataclass(frozen=True, slots=True)
class SignalShapes:
    """What a method needs to know to build its trainable parts. Shapes are those of one sample."""

    num_classes: int
    batch_size: int  # of one worker
    student: Mapping[str, tuple[int, ...]]  # tap -> shape
    teachers: Mapping[TeacherName, Mapping[SignalSpec, tuple[int, ...]]]
    taps: Mapping[TeacherName, Taps] = field(default_factory=dict)  # of the same teachers, all
    # Weight [C, c] and bias [C], where the method reads classifiers.
    classifiers: Mapping[TeacherName, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    # The live networks, where teachers are resident; nothing of theirs is recorded.
    residents: Mapping[TeacherName, Normalized] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is; learning rates and methods' schedules are functions of this alone."""

    epoch: int
    step: int  # within the epoch
    num_epochs: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """Steps done over all steps, in [0, 1)."""
        return (self.epoch + self.step / self.steps_per_epoch) / self.num_epochs


@final
@dataclass(frozen=True, slots=True)
class LossReport:
    """Named terms, already weighted, whose sum is trained; and what a method wants logged."""

    terms: Mapping[str, Tensor]
    # By kind, such as teacher_weight (of logits) and feature_weight: shares in [0, 1], a sample
    # each. The engine derives means, entropies, histograms and tables by class from them.
    weights: Mapping[str, Mapping[TeacherName, Float[Tensor, " B"]]] = field(default_factory=dict)
    scalars: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the terms, a scalar."""
        import torch

        return torch.stack(list(self.terms.values())).sum()

    def detach(self) -> LossReport:
        """The same numbers, without their graph."""
        return LossReport(
            _detached(self.terms),
            {kind: _detached(weights) for kind, weights in self.weights.items()},
            _detached(self.scalars),
        )


def _detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}


class SignalSource(Protocol):
    """Where teachers' signals come from; cached, served and local look the same to the engine."""

    def prefetch(self, batch: Batch) -> None:
        """Say that ``batch`` comes next but a few; the source may start to fetch its signals."""
        ...

    def signals(self, batch: Batch) -> TeacherSignals:
        """The signals of ``batch``, on the CPU; waits for what is not there yet."""
        ...

    @property
    def seconds_waited(self) -> float:
        """Seconds that ``signals`` has spent waiting so far."""
        ...

    def close(self) -> None: ...


def iterate_specs(
    needs: Mapping[TeacherName, frozenset[SignalSpec]],
) -> Iterator[tuple[TeacherName, SignalSpec]]:
    """Every (teacher, spec) of ``needs``, in a fixed order."""
    for teacher, specs in needs.items():
        for spec in sorted(specs):
            yield teacher, spec
