"""How much each teacher counted over an epoch: by class, and as a histogram.

Legend: T teachers, B samples of some steps, C classes, N bins of a histogram.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from distill.parallel import Workers
from distill.signals import LossReport, TeacherName

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

BINS = 50  # of equal width over [0, 1]: every method's weights are shares
_FLUSH_EVERY = 50  # steps: a step only keeps its weights, and the arithmetic is shared by many


@final
@dataclass(frozen=True, slots=True)
class WeightTable:
    """One kind of weights over one epoch: sums over the samples of all workers."""

    teachers: tuple[TeacherName, ...]
    sums: Float64[np.ndarray, "T C"]  # of the weights, by the samples' labels
    counts: Float64[np.ndarray, " C"]  # samples
    squares: Float64[np.ndarray, " T"]  # sums of squared weights
    histogram: Float64[np.ndarray, "T N"]  # weights in [n/N, (n+1)/N); the last bin has 1 too
    entropies: float  # sum, in nats, of the entropies of each sample's weights, scaled to sum 1

    def means(self) -> Float64[np.ndarray, " T"]:
        """The mean weight of each teacher."""
        return self.sums.sum(1) / self.counts.sum()

    def by_class(self) -> Float64[np.ndarray, "T C"]:
        """The mean weight of each teacher for each class; NaN for one without samples."""
        import numpy as np

        missing = np.full_like(self.sums, np.nan)
        return np.divide(self.sums, self.counts, out=missing, where=self.counts > 0)

    def scalars(self, kind: str) -> dict[str, float]:
        """What an epoch's row says of it: ``KIND/TEACHER``, the means, and ``KIND_entropy``."""
        means = zip(self.teachers, self.means().tolist(), strict=True)
        row = {f"{kind}/{teacher}": mean for teacher, mean in means}
        return row | {f"{kind}_entropy": self.entropies / float(self.counts.sum())}


@final
class WeightSums:
    """Gathers one worker's weights step by step, on the device; a step never waits for it.

    Every step of an epoch must report the same kinds and teachers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._num_classes = 0
        self._pending: list[tuple[LossReport, Tensor]] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._teachers: dict[str, tuple[TeacherName, ...]] = {}

    def add(self, report: LossReport, labels: Tensor, *, num_classes: int) -> None:
        """Take in one step; ``labels`` [B], on any device, are below ``num_classes``."""
        if not report.weights:
            return
        self._num_classes = num_classes
        self._pending.append((report, labels))
        if len(self._pending) == _FLUSH_EVERY:
            self._flush()

    def tables(self, workers: Workers) -> dict[str, WeightTable]:
        """By kind, the sums over all steps and workers; every worker must call it."""
        if self._pending:
            self._flush()
        return {
            kind: _table(self._teachers[kind], parts, workers) for kind, parts in self._sums.items()
        }

    def _flush(self) -> None:
        reports = [report for report, _ in self._pending]
        labels_B = torch.cat([labels for _, labels in self._pending]).to(self._device)
        self._pending = []
        for kind, weights in reports[0].weights.items():
            self._teachers[kind] = tuple(weights)
            weights_TB = torch.stack(
                [torch.cat([report.weights[kind][name] for report in reports]) for name in weights]
            )
            new = _sums(weights_TB.double(), labels_B, num_classes=self._num_classes)
            old = self._sums.get(kind)
            self._sums[kind] = [a + b for a, b in zip(old, new, strict=True)] if old else new


def _sums(weights_TB: Tensor, labels_B: Tensor, *, num_classes: int) -> list[Tensor]:
    """The five sums of a ``WeightTable``, in its order."""
    num_teachers = len(weights_TB)
    sums_TC = weights_TB.new_zeros(num_teachers, num_classes).index_add_(1, labels_B, weights_TB)
    counts_C = torch.bincount(labels_B, minlength=num_classes).to(weights_TB)
    bins_TB = (weights_TB * BINS).long().clamp_(0, BINS - 1)
    histogram_TN = weights_TB.new_zeros(num_teachers, BINS)
    histogram_TN.scatter_add_(1, bins_TB, torch.ones_like(weights_TB))
    totals_B = weights_TB.sum(0).clamp_min(torch.finfo(weights_TB.dtype).tiny)
    entropies = torch.special.entr(weights_TB / totals_B).sum().reshape(1)
    return [sums_TC, counts_C, weights_TB.square().sum(1), histogram_TN, entropies]


def _table(teachers: tuple[TeacherName, ...], parts: list[Tensor], workers: Workers) -> WeightTable:
    flat = workers.sum(torch.cat([part.reshape(-1) for part in parts]))
    pieces = flat.cpu().split([part.numel() for part in parts])
    sums, counts, squares, histogram, entropies = (
        piece.view_as(part).numpy() for piece, part in zip(pieces, parts, strict=True)
    )
    return WeightTable(teachers, sums, counts, squares, histogram, float(entropies[0]))
