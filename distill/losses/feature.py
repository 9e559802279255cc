"""Losses on feature maps, and the small maps that they are made of.

Legend: B samples, c channels, h height, w width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def pool_to_smaller(
    student: Float[Tensor, "B c h w"], teacher: Float[Tensor, "B d i j"]
) -> tuple[Float[Tensor, "B c p q"], Float[Tensor, "B d p q"]]:
    """Both maps at the smaller height and width; the larger map is average-pooled."""
    size = (
        min(student.shape[-2], teacher.shape[-2]),
        min(student.shape[-1], teacher.shape[-1]),
    )
    return _pool(student, size), _pool(teacher, size)


def _pool(features: Float[Tensor, "B c h w"], size: tuple[int, int]) -> Float[Tensor, "B c p q"]:
    if features.shape[-2:] == size:
        return features
    return F.adaptive_avg_pool2d(features, size)


def mean_squared_error(
    student: Float[Tensor, " B *shape"], teacher: Float[Tensor, " B *shape"]
) -> Float[Tensor, " B"]:
    """A sample's mean squared difference over all its elements.

    On projected features this is FitNet's hint loss (Romero et al. 2015, arXiv 1412.6550), on
    attention maps attention transfer's (Zagoruyko, Komodakis 2017, arXiv 1612.03928).
    Raises ValueError when the shapes differ: broadcasting would hide the mistake.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"features of the student {tuple(student.shape)} and of the teacher "
            f"{tuple(teacher.shape)} differ in shape; project and pool them to one shape first"
        )
    return (student - teacher).square().flatten(1).mean(1)


def normalise_channels(features: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
    """Each position's channel vector at unit L2 length (AMTML-KD's hints)."""
    return F.normalize(features, dim=1)


def attention_map(features: Float[Tensor, "B c h w"], *, power: int = 2) -> Float[Tensor, "B h*w"]:
    """The L2-normalised map of channels' mean power, flattened row by row.

    Pool first, then map: the map of a pooled feature is not the pooled map.
    Source: Zagoruyko, Komodakis 2017 (arXiv 1612.03928), with F_mean of their published code.
    """
    return F.normalize(features.pow(power).mean(1).flatten(1), dim=1)


def attention_like(
    student: Float[Tensor, "B c h w"], teacher: Float[Tensor, "B n"]
) -> Float[Tensor, "B n"]:
    """The student's attention map at the size of a teacher's, which comes as a map [B, N*N].

    A larger map of the student is average-pooled to N×N. Teachers with larger maps must pool them
    to the student's size before they take theirs: what compares the two raises where they did not.
    """
    side = math.isqrt(teacher.shape[1])
    if side < student.shape[-1]:
        student = F.adaptive_avg_pool2d(student, side)
    return attention_map(student)


def pooled_vector(features: Float[Tensor, "B c *hw"]) -> Float[Tensor, "B c"]:
    """A map's mean over positions; a vector as it is."""
    return features.mean((2, 3)) if features.ndim == 4 else features


def pooled_logits(
    features: Float[Tensor, "B c h w"],
    *,
    weight: Float[Tensor, "C c"],
    bias: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, "B C"]:
    """What a linear classifier says of globally average-pooled features (CA-MKD, SimKD)."""
    return F.linear(features.mean((2, 3)), weight, bias)
