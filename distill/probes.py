"""Linear probes: how well each stage of each teacher tells the classes apart (GPAC).

Our reading of Neural Networks 164, 2023. Importing this module does not import torch.

Legend: n samples, c channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.methods.base import MethodConfig
from distill.signals import Taps, TeacherName
from distill.taps import counterpart, stages_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

HELD_OUT = 10  # one sample in so many measures a probe and does not train it
MAKE = "`tutelage probe EXPERIMENT`"  # what to tell who needs a table
_DECAY = 1e-4  # of a probe's weights, on standardised features
_MAX_BYTES = 1 << 24  # of a table
_ITERATIONS = 200  # of L-BFGS, which ends sooner where it has converged


@final
class ProbeTable(BaseModel):
    """Accuracy, 0..1, on held-out training samples, by teacher and tap; and what it was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    accuracy: dict[TeacherName, dict[str, Annotated[float, Field(ge=0, le=1)]]]
    teachers: dict[TeacherName, str]  # a digest of each one's network, weights and normalisation
    split: str  # the fingerprint of the training samples

    @classmethod
    def read(cls, path: Path) -> ProbeTable:
        """The table in a JSON file. Raises ValueError naming the field and the file."""
        try:
            with path.expanduser().open("rb") as file:
                return cls.model_validate_json(file.read(_MAX_BYTES))
        except OSError:
            raise ValueError(
                f"probes: no file '{path}'; run {MAKE} first, which writes it, or correct the path"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ascii(".".join(map(str, first["loc"])))[1:-1] or "file"
            raise ValueError(
                f"probes: '{path}' holds no probe table ({where}: {first['msg']}); make it anew "
                f"with {MAKE}"
            ) from None

    def to_json(self) -> str:
        """As ``read`` reads it."""
        return self.model_dump_json(indent=1) + "\n"

    def best_groups(
        self, teachers: Mapping[TeacherName, Taps], student: Taps
    ) -> list[tuple[int, int]]:
        """For each stage of the student the teacher whose counterpart's probe is best.

        Stages count from 1, teachers from 0; of equals the first is taken. Raises ValueError
        where the table lacks an entry.
        """
        count = len(stages_of(student, network="the student"))
        groups: list[tuple[int, int]] = []
        for stage in range(1, count + 1):
            found = [
                self._of(name, counterpart(stage, taps, student, network=f"teacher '{name}'"))
                for name, taps in teachers.items()
            ]
            groups.append((stage, found.index(max(found))))
        return groups

    def check_made_of(self, teachers: Mapping[TeacherName, str], split: str) -> None:
        """Raise ValueError unless the table was made of these teachers and training samples."""
        if self.split != split:
            raise ValueError(
                f"probes: the table was made of other training samples ({self.split[:8]}, not "
                f"{split[:8]}); make it anew with {MAKE}"
            )
        for name, digest in teachers.items():
            if self.teachers.get(name) != digest:
                raise ValueError(
                    f"probes: the table was made of another teacher '{name}' (its network, "
                    f"weights or normalization differ); make it anew with {MAKE}"
                )

    def _of(self, teacher: TeacherName, tap: str) -> float:
        try:
            return self.accuracy[teacher][tap]
        except KeyError:
            raise ValueError(
                f"probes: the table has no entry for '{tap}' of teacher '{teacher}'; make it anew "
                f"with {MAKE}"
            ) from None


class ProbedConfig(MethodConfig, ABC):
    """A method that may leave the choice of teachers to a probe table."""

    probes: str = ""  # the table's file

    @property
    @abstractmethod
    def reads_table(self) -> bool:
        """Whether the table in ``probes`` decides; not where a setting does, or nothing is left."""

    @abstractmethod
    def with_choice(self, groups: Sequence[tuple[int, int]]) -> Self:
        """The same settings with the choice of ``best_groups`` in them, and no file to read."""


def probe_accuracy(
    features: Float[Tensor, "n c"], labels: Int[Tensor, " n"], *, num_classes: int, seed: int = 0
) -> float:
    """Accuracy, 0..1, of a linear softmax probe on the tenth of samples that did not train it.

    Which tenth depends on ``seed`` alone. Raises ValueError for fewer than 10 samples.
    """
    import torch

    if len(features) < HELD_OUT:
        raise ValueError(f"{len(features)} samples are too few to probe; give {HELD_OUT} or more")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(features), generator=generator).to(features.device)
    held, rest = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    mean, std = features[rest].mean(0), features[rest].std(0).clamp_min(1e-6)
    scaled = (features - mean) / std
    weight, bias = _fit(scaled[rest], labels[rest], num_classes)
    predicted = (scaled[held] @ weight + bias).argmax(1)
    return float((predicted == labels[held]).double().mean())


def _fit(
    features: Float[Tensor, "n c"], labels: Int[Tensor, " n"], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression from zero: convex, so the same on every machine."""
    import torch
    from torch.nn import functional as F

    weight = features.new_zeros(features.shape[1], num_classes).requires_grad_()
    bias = features.new_zeros(num_classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weight + bias, labels)
        value = value + _DECAY * weight.square().sum()
        value.backward()
        return value.item()

    optimizer.step(loss)
    return weight.detach(), bias.detach()
