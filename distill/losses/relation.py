"""Losses on the relations between a batch's samples, one value an anchor sample.

The means of the published losses over pairs or triples are the means of these over anchors.
The teacher's side is a fixed goal: no gradient reaches it.

Legend: B samples, n features of the student, m of the teacher (they may differ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch.nn import functional as F

from distill.losses.precision import gram, widened

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# The published code's constant; the golden case needs the very same one.
_PKT_EPSILON = 1e-7


@final
@dataclass(frozen=True, slots=True)
class Relations:
    """How a batch's samples lie to one another; made once, compared with several teachers'."""

    distances: Float[Tensor, "B B"]  # over their mean, coincident pairs not counted
    cosines: Float[Tensor, "B B B"]  # of the angle at i between j and k; 0 where two coincide


def relations(points: Float[Tensor, "B n"]) -> Relations:
    """Costs B³ operations, whatever n is."""
    gram_BB = _gram(points)
    distances_BB = _distances(gram_BB)
    count = (distances_BB > 0).sum().clamp_min(1)
    mean = distances_BB.sum() / count
    return Relations(
        distances_BB / torch.where(mean > 0, mean, 1.0), _cosines(gram_BB, distances_BB)
    )


def relational_loss(
    student: Relations,
    teacher: Relations,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Float[Tensor, " B"]:
    """RKD: smooth-L1 on distances over their batch mean, and on angles, each weighted.

    Source: Park et al. 2019 (arXiv 1904.05068), eqs. 4 to 6; weights of their published code.
    """
    distance = F.smooth_l1_loss(student.distances, teacher.distances.detach(), reduction="none")
    angle = _cosine_loss(student.cosines, teacher.cosines)
    return distance_weight * distance.mean(1) + angle_weight * angle


def angle_loss(student: Float[Tensor, "B n"], teacher: Float[Tensor, "B m"]) -> Float[Tensor, " B"]:
    """Smooth-L1 between cosines at vertex i of (x_j−x_i, x_k−x_i), mean over all (j, k).

    Source: Park et al. 2019, Relational Knowledge Distillation (arXiv 1904.05068), eq. 6; AMTML-KD
    takes it on softened probabilities.
    """
    gram_BB, goal_BB = _gram(student), _gram(teacher.detach())
    return _cosine_loss(
        _cosines(gram_BB, _distances(gram_BB)), _cosines(goal_BB, _distances(goal_BB))
    )


def _cosine_loss(
    student_BBB: Float[Tensor, "B B B"], teacher_BBB: Float[Tensor, "B B B"]
) -> Float[Tensor, " B"]:
    return F.smooth_l1_loss(student_BBB, teacher_BBB.detach(), reduction="none").mean((1, 2))


def _gram(points: Float[Tensor, "B n"]) -> Float[Tensor, "B B"]:
    # Centred, which changes no difference between points, so that little cancels below.
    points = widened(points)
    return gram(points - points.mean(0))


def _distances(gram_BB: Float[Tensor, "B B"]) -> Float[Tensor, "B B"]:
    """0, and without a gradient, between points that are one to within rounding."""
    squares_B = gram_BB.diagonal()
    sums_BB = squares_B.unsqueeze(1) + squares_B.unsqueeze(0)
    distances_BB = sums_BB - 2 * gram_BB
    apart_BB = distances_BB > 8 * torch.finfo(gram_BB.dtype).eps * sums_BB
    return torch.where(apart_BB, torch.where(apart_BB, distances_BB, 1.0).sqrt(), 0.0)


def _cosines(
    gram_BB: Float[Tensor, "B B"], distances_BB: Float[Tensor, "B B"]
) -> Float[Tensor, "B B B"]:
    """(x_j−x_i)·(x_k−x_i) = G_jk − G_ij − G_ik + G_ii, over both lengths."""
    half_BB = gram_BB - gram_BB.diagonal().unsqueeze(1) / 2
    apart_BB = distances_BB > 0
    inverse_BB = apart_BB / torch.where(apart_BB, distances_BB, 1.0)
    products_BBB = gram_BB - half_BB.unsqueeze(2) - half_BB.unsqueeze(1)
    return products_BBB * inverse_BB.unsqueeze(2) * inverse_BB.unsqueeze(1)


def probabilistic_transfer(
    student: Float[Tensor, "B n"], teacher: Float[Tensor, "B m"]
) -> Float[Tensor, " B"]:
    """PKT: mean over j of p_ij·log(p_ij/q_ij), p and q rows of cosine-kernel probabilities.

    Source: Passalis, Tefas 2018 (arXiv 1803.10837), eqs. 5 to 8.
    """
    predicted_BB = _kernel_probabilities(student)
    target_BB = _kernel_probabilities(teacher.detach())
    ratio_BB = (target_BB + _PKT_EPSILON) / (predicted_BB + _PKT_EPSILON)
    return (target_BB * ratio_BB.log()).mean(1)


def _lengths(vectors: Float[Tensor, "*n m"]) -> Float[Tensor, "*n"]:
    # Unlike the root of a sum of squares, its gradient at zero is zero.
    return torch.linalg.vector_norm(vectors, dim=-1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _kernel_probabilities(features: Float[Tensor, "B n"]) -> Float[Tensor, "B B"]:
    features = widened(features)
    unit = features / (_lengths(features).unsqueeze(1) + _PKT_EPSILON)
    kernel_BB = (gram(unit) + 1.0) / 2.0
    return kernel_BB / kernel_BB.sum(1, keepdim=True)


def similarities(features: Float[Tensor, " B *n"]) -> Float[Tensor, "B B"]:
    """The Gram matrix of a batch, its rows at unit L2 length."""
    return F.normalize(gram(features.flatten(1)), dim=1)


def similarity_preserving(
    student: Float[Tensor, "B B"], teacher: Float[Tensor, "B B"]
) -> Float[Tensor, " B"]:
    """Mean squared difference between rows of two batches' ``similarities``.

    Source: Tung, Mori 2019 (arXiv 1907.09682), eqs. 2 to 4.
    """
    return (student - teacher.detach()).square().mean(1)
