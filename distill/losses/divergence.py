"""Divergences between classifiers' predictions, in nats, one value a sample.

Legend: T teachers, B samples, C classes. A leading T axis on the teacher's side is welcome: the
student's softmax is computed once and shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def kl_divergence(
    student: Float[Tensor, "*#n C"], teacher: Float[Tensor, "*#n C"], *, temperature: float
) -> Float[Tensor, "*n"]:
    """τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)) of finite logits; leading axes broadcast.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531).
    """
    target = F.log_softmax(teacher / temperature, dim=-1)
    return divergence_from_log_probs(student, target, temperature=temperature)


def divergence_from_log_probs(
    student: Float[Tensor, "*#n C"], target: Float[Tensor, "*#n C"], *, temperature: float
) -> Float[Tensor, "*n"]:
    """τ²·KL(exp(target) ‖ softmax(student/τ)), the target given as finite log-probabilities.

    Gradients reach the target too; detach it where it is to be a fixed goal.
    """
    predicted = F.log_softmax(student / temperature, dim=-1)
    # τ² keeps the gradient's scale as τ grows (Hinton 2015, sec. 2).
    return temperature**2 * (target.exp() * (target - predicted)).sum(-1)


def mixture_log_probs(
    teachers: Float[Tensor, "T B C"], log_weights: Float[Tensor, "B T"], *, temperature: float
) -> Float[Tensor, "B C"]:
    """log Σ_k μ_k·softmax(z_k/τ): a mixture of probabilities, not of logits.

    Weights come as logarithms and the sum stays in logarithms, so that neither a weight nor a
    probability that underflows makes a gradient infinite. Source: Liu, Zhang, Wang 2020 (AMTML-KD).
    """
    log_probs_TBC = F.log_softmax(teachers / temperature, dim=-1)
    return torch.logsumexp(log_probs_TBC + log_weights.T.unsqueeze(-1), dim=0)


def cross_entropy(logits: Float[Tensor, "*n C"], labels: Int[Tensor, "*#n"]) -> Float[Tensor, "*n"]:
    """Cross-entropy of the labels under softmax(logits); labels [B] serve logits [T, B, C]."""
    chosen = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    return -F.log_softmax(logits, dim=-1).gather(-1, chosen).squeeze(-1)


def entropy(logits: Float[Tensor, "*n C"]) -> Float[Tensor, "*n"]:
    """Entropy of softmax(logits), between 0 and log C."""
    log_probs = F.log_softmax(logits, dim=-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def decoupled_divergence(
    student: Float[Tensor, "*#n C"],
    teacher: Float[Tensor, "*#n C"],
    labels: Int[Tensor, "*#n"],
    *,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Float[Tensor, "*n"]:
    """τ²·(α·KL(true class against the rest) + β·KL(among the other classes)).

    Source: Zhao et al. 2022, Decoupled Knowledge Distillation (arXiv 2203.08679), eq. 7.
    """
    student_true, student_other = _decouple(student / temperature, labels)
    teacher_true, teacher_other = _decouple(teacher / temperature, labels)
    among_true = (teacher_true.exp() * (teacher_true - student_true)).sum(-1)
    among_other = (teacher_other.exp() * (teacher_other - student_other)).sum(-1)
    return temperature**2 * (alpha * among_true + beta * among_other)


def _decouple(
    logits: Float[Tensor, "*n C"], labels: Int[Tensor, "*#n"]
) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n C"]]:
    """Log-probabilities of (true, rest), and of the classes given that the true one is not it."""
    chosen = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    # Lowest/2, not -inf: the true class then has probability 0 among the others, and 0·(a - a) is 0
    # in the divergence and in its gradient.
    others = logits.scatter(-1, chosen, torch.finfo(logits.dtype).min / 2)
    norm = torch.logsumexp(logits, dim=-1, keepdim=True)
    norm_others = torch.logsumexp(others, dim=-1, keepdim=True)
    binary = torch.cat([logits.gather(-1, chosen), norm_others], dim=-1) - norm
    return binary, others - norm_others
