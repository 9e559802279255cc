"""Splits: rows of one memory-mapped array, chosen class by class with a hash.

Legend: M images stored, N samples of a split, n samples asked for, c channels, h height, w width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from distill.views.hashing import Stream, hash64

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from numpy import ndarray


@final
@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Samples of one array. Load it again in another process rather than pickle its images."""

    images: UInt8[ndarray, "M c h w"]  # the whole stored array, mapped from disk
    labels: Int64[ndarray, " N"]  # of the split's samples
    rows: Int64[ndarray, " N"]  # where in ``images`` the split's samples lie
    fingerprint: str  # sha256 hex of the stored images and labels and of ``rows``

    def __len__(self) -> int:
        return len(self.rows)

    def gather(
        self, positions: Int64[ndarray, " n"]
    ) -> tuple[UInt8[ndarray, "n c h w"], Int64[ndarray, " n"]]:
        """Copies of the samples at ``positions`` (0..N-1). Raises IndexError beyond the split."""
        images = np.take(np.asarray(self.images), self.rows[positions], axis=0)
        return images, self.labels[positions]


def take_rows(
    images: UInt8[ndarray, "M c h w"],
    labels: Int64[ndarray, " M"],
    rows: Int64[ndarray, " N"],
    *,
    digest: str,
    classes: Sequence[int] | None = None,
) -> Split:
    """The split of these rows; ``digest`` is the sha256 of all of ``images`` and ``labels``.

    Where ``classes`` are given, only their rows are taken, and class ``classes[i]`` becomes i.
    """
    state = hashlib.sha256(bytes.fromhex(digest))
    if classes is not None:
        rows = rows[np.isin(labels[rows], classes)]
        places = np.zeros(1 + max(int(labels.max()), *classes), np.int64)
        places[list(classes)] = np.arange(len(classes))
        labels = places[labels]
        state.update(np.array(classes, "<i8").tobytes())
    state.update(rows.astype("<i8").tobytes())
    return Split(images=images, labels=labels[rows], rows=rows, fingerprint=state.hexdigest())


def stratified_rows(
    labels: NDArray[np.integer], *, per_class: int, seed: int = 0
) -> Int64[ndarray, " N"]:
    """``per_class`` rows of each class, ascending: those whose hashes of (seed, row) are least.

    A smaller choice is a subset of a larger one. Raises ValueError if a class has too few samples.
    """
    hashes = hash64(Stream.SUBSET, seed, np.arange(len(labels)))
    chosen: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < per_class:
            raise ValueError(f"class {label} has {len(rows)} samples, not {per_class}")
        chosen.append(rows[np.argsort(hashes[rows], kind="stable")[:per_class]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def hold_out(
    labels: NDArray[np.int64], rows: NDArray[np.int64], *, fraction: float, seed: int
) -> tuple[Int64[ndarray, " N"], Int64[ndarray, " N"]]:
    """Cut ``rows`` into (training, validation), each ascending.

    Of every class, ``fraction`` is held out: rounded, at least one sample and never the last one.
    """
    if fraction == 0:
        return rows, rows[:0]
    hashes = hash64(Stream.VALIDATION, seed, rows)
    held = np.zeros(len(rows), bool)
    for label in np.unique(labels[rows]):
        members = np.flatnonzero(labels[rows] == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[members[np.argsort(hashes[members], kind="stable")[:count]]] = True
    return rows[~held], rows[held]
