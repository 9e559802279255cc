"""Losses on the relations between a batch's samples, one value an anchor sample.

The means of the published losses over pairs or triples are the means of these over anchors.
The teacher's side is a fixed goal: no gradient reaches it.

Legend: B samples, n features of the student, m of the teacher (they may differ).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# The published code's constant; the golden case needs the very same one.
_PKT_EPSILON = 1e-7


def angle_loss(student: Float[Tensor, "B n"], teacher: Float[Tensor, "B m"]) -> Float[Tensor, " B"]:
    """Smooth-L1 between cosines at vertex i of (x_j−x_i, x_k−x_i), mean over all (j, k).

    Costs B³ multiply-adds for each feature. Source: Park et al. 2019, Relational Knowledge
    Distillation (arXiv 1904.05068), eq. 6; AMTML-KD takes it on softened probabilities.
    """
    student_BBn, _ = _directions(student)
    teacher_BBm, _ = _directions(teacher.detach())
    return _angle_loss(student_BBn, teacher_BBm)


def relational_loss(
    student: Float[Tensor, "B n"],
    teacher: Float[Tensor, "B m"],
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Float[Tensor, " B"]:
    """RKD: smooth-L1 on distances over their batch mean, and on angles, each weighted.

    Source: Park et al. 2019 (arXiv 1904.05068), eqs. 4 to 6; weights of their published code.
    """
    student_BBn, student_BB = _directions(student)
    teacher_BBm, teacher_BB = _directions(teacher.detach())
    distance = F.smooth_l1_loss(
        _over_mean(student_BB), _over_mean(teacher_BB), reduction="none"
    ).mean(1)
    return distance_weight * distance + angle_weight * _angle_loss(student_BBn, teacher_BBm)


def _angle_loss(
    student_BBn: Float[Tensor, "B B n"], teacher_BBm: Float[Tensor, "B B m"]
) -> Float[Tensor, " B"]:
    student_BBB = torch.bmm(student_BBn, student_BBn.mT)
    teacher_BBB = torch.bmm(teacher_BBm, teacher_BBm.mT)
    return F.smooth_l1_loss(student_BBB, teacher_BBB, reduction="none").mean((1, 2))


def _directions(
    points: Float[Tensor, "B n"],
) -> tuple[Float[Tensor, "B B n"], Float[Tensor, "B B"]]:
    """Unit vectors from point i to point j (zero where they coincide), and the distances."""
    steps_BBn = points.unsqueeze(0) - points.unsqueeze(1)
    lengths_BB = _length(steps_BBn)
    # Dividing coincident points' zero by one, not by an epsilon, keeps their gradient finite.
    return steps_BBn / torch.where(lengths_BB > 0, lengths_BB, 1.0).unsqueeze(-1), lengths_BB


def _length(vectors: Float[Tensor, "*n m"]) -> Float[Tensor, "*n"]:
    # Unlike the root of a sum of squares, its gradient at zero is zero.
    return torch.linalg.vector_norm(vectors, dim=-1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _over_mean(distances: Float[Tensor, "B B"]) -> Float[Tensor, "B B"]:
    count = (distances > 0).sum().clamp_min(1)
    mean = distances.sum() / count
    return distances / torch.where(mean > 0, mean, 1.0)


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


def _kernel_probabilities(features: Float[Tensor, "B n"]) -> Float[Tensor, "B B"]:
    unit = features / (_length(features).unsqueeze(1) + _PKT_EPSILON)
    kernel_BB = (unit @ unit.T + 1.0) / 2.0
    return kernel_BB / kernel_BB.sum(1, keepdim=True)


def similarity_preserving(
    student: Float[Tensor, " B *n"], teacher: Float[Tensor, " B *m"]
) -> Float[Tensor, " B"]:
    """Mean squared difference between rows of the L2-row-normalised Gram matrices.

    Source: Tung, Mori 2019 (arXiv 1907.09682), eqs. 2 to 4.
    """
    student_BB, teacher_BB = (
        F.normalize(flat @ flat.T, dim=1)
        for flat in (student.flatten(1), teacher.detach().flatten(1))
    )
    return (student_BB - teacher_BB).square().mean(1)
