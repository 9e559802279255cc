"""What adapts to the student: GPAC's corrector and schedule, and the price of a moving teacher.

GPAC's (Neural Networks 164, 2023) formulas are our reading; only its abstract is public.

Legend: T teachers, B samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distill.losses.divergence import kl_divergence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float
    from torch import Tensor


def blend_weights(
    student: Float[Tensor, "B C"],
    teachers: Float[Tensor, "T B C"],
    *,
    temperature: float,
    strength: float = 0.5,
) -> Float[Tensor, "T B"]:
    """ω_k = λ·d_k/(1+d_k), d_k the divergence (without τ²) from teacher k: in [0, λ), detached.

    The further a teacher is from the student, the more its target leans to the student (GPAC).
    """
    with torch.no_grad():
        divergence_TB = kl_divergence(student, teachers, temperature=temperature) / temperature**2
        return strength * divergence_TB / (1.0 + divergence_TB)


def blended_logits(
    student: Float[Tensor, "B C"],
    teachers: Float[Tensor, "T B C"],
    weights: Float[Tensor, "T B"],
) -> Float[Tensor, "T B C"]:
    """Corrected teacher logits z_k + ω_k·z_s; no gradient reaches the student's side (GPAC)."""
    return teachers + weights.unsqueeze(-1) * student.detach()


def stepped_weight(
    epoch: int,
    *,
    num_epochs: int,
    base: float = 1000.0,
    levels: Sequence[float] = (1.0, 0.5, 0.1),
    breakpoints: Sequence[float] = (5 / 8, 3 / 4),
) -> float:
    """base·level of the epoch; level i+1 begins at the fraction ``breakpoints[i]`` of the epochs.

    Raises ValueError unless breakpoints rise and there is one level more than breakpoints.
    """
    if len(levels) != len(breakpoints) + 1:
        raise ValueError(
            f"levels {list(levels)} and breakpoints {list(breakpoints)}: "
            "give exactly one level more than breakpoints"
        )
    if list(breakpoints) != sorted(breakpoints):
        raise ValueError(f"breakpoints {list(breakpoints)} must rise; sort them")
    # Dividing, not multiplying: 3/30 is the float 0.1, while 0.1*30 is more than 3.
    return base * levels[sum(epoch / num_epochs >= fraction for fraction in breakpoints)]


def weight_drift(weights: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Σ‖W − W⁰‖² over ``weights``: a sum, not a mean.

    Source: Jang et al. 2024, ATSC (arXiv 2406.08528); which weights count is the caller's choice.
    """
    drifts = [(weight - initial[name]).square().sum() for name, weight in weights.items()]
    return torch.stack(drifts).sum()
