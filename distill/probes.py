"""Linear probes: how well each stage of each teacher tells the classes apart (GPAC).

Our reading of Neural Networks 164, 2023. Importing this module does not import torch.

Legend: n samples, c channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from distill.signals import Taps, TeacherName
from distill.taps import counterpart, stages_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

HELD_OUT = 10  # one sample in so many measures a probe and does not train it
_DECAY = 1e-4  # of a probe's weights, on standardised features
_ITERATIONS = 200  # of L-BFGS, which ends sooner where it has converged


@final
@dataclass(frozen=True, slots=True)
class ProbeTable:
    """Accuracy, 0..1, on held-out training samples, by teacher and tap."""

    accuracy: Mapping[TeacherName, Mapping[str, float]]

    @classmethod
    def read(cls, path: Path) -> ProbeTable:
        """The table in a JSON file. Raises ValueError naming the field and the file."""
        try:
            raw = json.loads(path.expanduser().read_text(encoding="utf-8"))
            return cls({str(k): {str(t): float(a) for t, a in v.items()} for k, v in raw.items()})
        except OSError:
            raise ValueError(f"probes: no file '{path}'; correct the path") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"probes: '{path}' holds no probe table ({error}); make it anew"
            ) from None

    def write(self, path: Path) -> None:
        """As JSON that ``read`` reads."""
        text = json.dumps({name: dict(row) for name, row in self.accuracy.items()}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")

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

    def _of(self, teacher: TeacherName, tap: str) -> float:
        try:
            return self.accuracy[teacher][tap]
        except KeyError:
            raise ValueError(
                f"probes: the table has no entry for '{tap}' of teacher '{teacher}'; make it anew "
                "with these teachers"
            ) from None


def probe_table(
    features: Mapping[TeacherName, Mapping[str, Float[Tensor, "n c"]]],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    seed: int = 0,
) -> ProbeTable:
    """Probes of every teacher's pooled features of the same training samples, by tap."""
    return ProbeTable(
        {
            teacher: {
                tap: probe_accuracy(pooled, labels, num_classes=num_classes, seed=seed)
                for tap, pooled in of_teacher.items()
            }
            for teacher, of_teacher in features.items()
        }
    )


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
