"""How much each teacher counts: weights from entropy, confidence, and agreement of gradients.

Legend: T teachers, B samples, C classes. With one teacher every rule gives it the weight 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from distill.losses.divergence import cross_entropy, entropy

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int
    from torch import Tensor

_TOLERANCE = 1e-12  # of slopes and steps, in units of the mean of the Gram matrix's diagonal


def entropy_weights(teachers: Float[Tensor, "T B C"]) -> Float[Tensor, "T B"]:
    """1 − H_k/ΣH at temperature 1: a surer teacher counts more; weights sum to T − 1.

    Source: Kwon et al. 2020, Adaptive Knowledge Distillation Based on Entropy (ICASSP; EBKD).
    """
    if len(teachers) == 1:
        return teachers.new_ones(teachers.shape[:-1])
    # The smallest normal number makes 0/0 (all teachers certain) the uniform 1/T.
    entropy_TB = entropy(teachers) + torch.finfo(teachers.dtype).tiny
    return 1.0 - entropy_TB / entropy_TB.sum(0)


def confidence_weights(
    logits: Float[Tensor, "T B C"], labels: Int[Tensor, " B"]
) -> Float[Tensor, "T B"]:
    """(1 − softmax_k(CE(z_k, y)))/(T − 1): a teacher nearer the label counts more; sums to 1.

    The logits are the teachers' own, or what their classifiers say of projected student features;
    gradients reach them. Source: Zhang, Chen, Wang 2022, CA-MKD (arXiv 2201.00007), eqs. 3 and 6.
    """
    if len(logits) == 1:
        return logits.new_ones(logits.shape[:-1])
    return (1.0 - F.softmax(cross_entropy(logits, labels), dim=0)) / (len(logits) - 1)


def agreement_weights(
    student: Float[Tensor, "B C"],
    teachers: Float[Tensor, "T B C"],
    *,
    temperature: float,
    tolerance: float = 0.6,
) -> Float[Tensor, " T"]:
    """The convex weights, none above ``tolerance``, whose mean gradient of KL_k is shortest.

    It is the dual of a one-class SVM with ν = 1/(tolerance·T), scaled by 1/(T·ν), on the Gram
    matrix of the batch-mean ∂KL_k/∂z_s. No gradient flows through. The T×T problem is solved on
    the CPU. Source: Du et al. 2020, Agree to Disagree (NeurIPS; AEKD), eq. 8.
    """
    with torch.no_grad():
        predicted = F.softmax(student / temperature, dim=-1).mean(0)
        target_TC = F.softmax(teachers / temperature, dim=-1).mean(1)
        # The constant factor τ of ∂KL_k/∂z_s does not move the optimum.
        gradient_TC = (predicted - target_TC).double()
        gram = (gradient_TC @ gradient_TC.T).cpu().numpy()
        return student.new_tensor(capped_simplex_minimum(gram, cap=tolerance))


def capped_simplex_minimum(
    gram: Float64[np.ndarray, "T T"], *, cap: float
) -> Float64[np.ndarray, " T"]:
    """argmin wᵀGw over 0 ≤ w ≤ cap, Σw = 1, exactly; G is positive semidefinite, perhaps singular.

    A cap below 1/T, which no weights could meet, counts as 1/T. Where G is not finite, all are 1/T:
    the student has diverged, which its losses say.
    Source: the primal active-set method, Nocedal, Wright 2006, algorithm 16.3.
    """
    num = len(gram)
    if not np.isfinite(gram).all():
        return np.full(num, 1.0 / num)
    cap = max(cap, 1.0 / num)
    gram = gram / max(np.trace(gram) / num, np.finfo(float).tiny)
    weights = np.full(num, 1.0 / num)
    free = np.ones(num, dtype=bool)
    # Each turn fixes or frees a weight and never goes uphill; the bound ends cycling among ties.
    for _ in range(20 * num):
        step = _free_step(gram, weights, free)
        room = np.where(step > 0, cap - weights, weights)
        lengths = np.divide(room, np.abs(step), out=np.full(num, np.inf), where=step != 0)
        blocking = int(lengths.argmin())
        weights = np.clip(weights + min(1.0, lengths[blocking]) * step, 0.0, cap)
        if lengths[blocking] < 1:
            weights[blocking] = cap if step[blocking] > 0 else 0.0
            free[blocking] = False
            continue
        slope = gram @ weights
        falling = np.where(weights > 0, slope, -np.inf)
        rising = np.where(weights < cap, slope, np.inf)
        pair = [int(falling.argmax()), int(rising.argmin())]
        if falling[pair[0]] - rising[pair[1]] <= _TOLERANCE or free[pair].all():
            break
        free[pair] = True
    return weights


def _free_step(
    gram: Float64[np.ndarray, "T T"],
    weights: Float64[np.ndarray, " T"],
    free: np.ndarray,
) -> Float64[np.ndarray, " T"]:
    """The step to the optimum over the free weights alone, their sum held."""
    index = np.flatnonzero(free)
    step = np.zeros_like(weights)
    if len(index) < 2:
        return step
    system = np.ones((len(index) + 1, len(index) + 1))
    system[:-1, :-1] = gram[np.ix_(index, index)]
    system[-1, -1] = 0.0
    right = np.append(-(gram[index] @ weights), 0.0)
    step[index] = np.linalg.lstsq(system, right, rcond=None)[0][:-1]
    step[np.abs(step) <= _TOLERANCE] = 0.0
    return step
