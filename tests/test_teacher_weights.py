"""Properties of the rules that weigh teachers: symmetry, optimality, what one teacher gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill import losses

# T teachers, B samples, C classes
T, B, C = 3, 6, 5
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rule", ["entropy", "confidence", "agreement"])
def test_teacher_weights_follow_a_permutation_of_teachers(rule: str) -> None:
    teachers, order = draw(T, B, C), torch.tensor([2, 0, 1])
    weigh = {
        "entropy": losses.entropy_weights,
        "confidence": lambda logits: losses.confidence_weights(logits, LABELS),
        "agreement": lambda logits: losses.agreement_weights(
            draw(B, C, seed=1), logits, temperature=4.0
        ),
    }[rule]
    torch.testing.assert_close(weigh(teachers[order]), weigh(teachers)[order])
    total = {"entropy": T - 1.0}.get(rule, 1.0)
    torch.testing.assert_close(weigh(teachers).sum(0).mean().item(), total)
    torch.testing.assert_close(weigh(teachers[:1]), torch.ones_like(weigh(teachers)[:1]))


def test_the_surer_and_the_truer_teacher_count_more() -> None:
    sure, unsure = 5 * F.one_hot(LABELS, C).double(), F.one_hot(LABELS, C).double()
    entropy = losses.entropy_weights(torch.stack([sure, unsure]))
    assert (entropy[0] > entropy[1]).all()
    confidence = losses.confidence_weights(torch.stack([sure, -sure]), LABELS)
    assert (confidence[0] > 0.99).all()


def test_confidence_weights_are_differentiable() -> None:
    logits = draw(T, B, C).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.confidence_weights(z, LABELS), logits)


def test_agreement_weights_of_opposite_teachers_cancel_their_pull() -> None:
    student = torch.zeros(1, 2, dtype=torch.float64)
    teachers = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]], dtype=torch.float64)
    weights = losses.agreement_weights(student, teachers, temperature=4.0)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5))


@pytest.mark.parametrize("num", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("rank", [1, 3, 20])
def test_capped_simplex_minimum_meets_its_optimality_conditions(num: int, rank: int) -> None:
    vectors = np.random.default_rng(num * rank).normal(size=(num, rank)) + 0.5
    for cap in (0.1, 0.3, 0.6, 1.0):
        weights = losses.capped_simplex_minimum(vectors @ vectors.T, cap=cap)
        bound = max(cap, 1 / num)
        assert weights.sum() == pytest.approx(1.0)
        assert weights.min() >= 0
        assert weights.max() <= bound
        slope = vectors @ (vectors.T @ weights)
        falling, rising = slope[weights > 1e-9], slope[weights < bound - 1e-9]
        assert not len(rising) or falling.max() <= rising.min() + 1e-8 * np.abs(slope).max() + 1e-9


def test_capped_simplex_minimum_of_equal_or_zero_vectors_is_uniform() -> None:
    for gram in (np.ones((4, 4)), np.zeros((4, 4))):
        np.testing.assert_allclose(losses.capped_simplex_minimum(gram, cap=0.6), 0.25)


def test_capped_simplex_minimum_beats_random_weights_of_nearly_equal_vectors() -> None:
    random = np.random.default_rng(0)
    vectors = np.ones((6, 12)) + 1e-4 * random.normal(size=(6, 12))
    best = losses.capped_simplex_minimum(vectors @ vectors.T, cap=0.6) @ vectors
    others = random.dirichlet(np.ones(6), size=2000)
    others = others[others.max(1) <= 0.6] @ vectors
    assert (best @ best) <= (others**2).sum(1).min()


def test_certain_teachers_share_evenly_instead_of_dividing_by_zero() -> None:
    weights = losses.entropy_weights(400 * torch.eye(C).expand(2, C, C))
    torch.testing.assert_close(weights, torch.full((2, C), 0.5))


def test_agreement_tolerance_caps_a_teachers_weight() -> None:
    student, teachers = draw(B, C), torch.stack([draw(B, C), *draw(2, B, C, seed=1)])
    for tolerance in (0.4, 0.7):
        weights = losses.agreement_weights(student, teachers, temperature=4.0, tolerance=tolerance)
        assert weights[0].item() == pytest.approx(tolerance)
