"""Properties of the losses: hand values, symmetries, gradients, and what one teacher means."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill import losses

# T teachers, B samples, C classes
T, B, C = 3, 6, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture_kl(student: Tensor, teachers: Tensor, log_weights: Tensor) -> Tensor:
    target = losses.mixture_log_probs(teachers, log_weights, temperature=5.0)
    return losses.divergence_from_log_probs(student, target, temperature=5.0)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
PAIRWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda s, t: losses.kl_divergence(s, t, temperature=4.0),
    "dkd": lambda s, t: losses.decoupled_divergence(s, t, LABELS[: len(s)], temperature=4.0),
    "mse": losses.mean_squared_error,
    "angle": losses.angle_loss,
    "rkd": lambda s, t: losses.relational_loss(losses.relations(s), losses.relations(t)),
    "pkt": losses.probabilistic_transfer,
    "sp": lambda s, t: losses.similarity_preserving(losses.similarities(s), losses.similarities(t)),
    "attention": lambda s, t: losses.mean_squared_error(
        losses.attention_map(s[..., None, None] * draw(1, 1, 3, 3)),
        losses.attention_map(t[..., None, None] * draw(1, 1, 3, 3) ** 2),
    ),
}
RELATIONS = ("angle", "rkd", "pkt", "sp")


def test_importing_losses_leaves_torch_unloaded_and_offers_every_name() -> None:
    program = (
        "import sys; from distill import losses; dir(losses); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert all(callable(getattr(losses, name)) for name in losses.__all__)
    with pytest.raises(AttributeError, match="kl_divergance"):
        _ = losses.kl_divergance  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", PAIRWISE)
def test_loss_has_one_value_a_sample_and_right_gradients(name: str) -> None:
    student, teacher = draw(B, C).requires_grad_(), draw(B, C, seed=1)
    assert PAIRWISE[name](student, teacher).shape == (B,)
    assert torch.autograd.gradcheck(lambda s: PAIRWISE[name](s, teacher), student)


@pytest.mark.parametrize("name", sorted(set(PAIRWISE) - {"attention"}))
def test_loss_and_gradient_are_zero_when_student_is_teacher(name: str) -> None:
    student = draw(B, C).requires_grad_()
    loss = PAIRWISE[name](student, student.detach().clone())
    (grad,) = torch.autograd.grad(loss.sum(), student)
    # PKT's published epsilon, 1e-7, leaves a gradient of its own size.
    assert loss.abs().max() < 1e-12
    assert grad.abs().max() < (1e-6 if name == "pkt" else 1e-12)


@pytest.mark.parametrize("name", sorted(set(PAIRWISE) - set(RELATIONS) - {"attention"}))
def test_a_samples_loss_does_not_depend_on_its_batch(name: str) -> None:
    student, teacher = draw(B, C), draw(B, C, seed=1)
    together = PAIRWISE[name](student, teacher)
    torch.testing.assert_close(together[:1], PAIRWISE[name](student[:1], teacher[:1]))


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_follow_a_permutation_of_samples_and_take_any_width(name: str) -> None:
    student, teacher, order = draw(B, C), draw(B, 2 * C, seed=1), torch.randperm(B)
    loss = PAIRWISE[name](student, teacher)
    torch.testing.assert_close(PAIRWISE[name](student[order], teacher[order]), loss[order])


@pytest.mark.parametrize("name", ["angle", "rkd"])
def test_relations_ignore_shift_scale_and_rotation(name: str) -> None:
    student, teacher = draw(B, C), draw(B, C, seed=1)
    rotation, _ = torch.linalg.qr(draw(C, C, seed=2))
    moved = 3.0 * student @ rotation + draw(C, seed=3)
    torch.testing.assert_close(PAIRWISE[name](moved, teacher), PAIRWISE[name](student, teacher))


@pytest.mark.parametrize("name", ["angle", "rkd"])
def test_coinciding_samples_keep_gradients_finite_and_modest(name: str) -> None:
    student = draw(B, C).float()
    student[1] = student[0]
    student.requires_grad_()
    PAIRWISE[name](student, draw(B, C, seed=1).float()).mean().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e3


def test_kl_hand_value() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[2.0 * math.log(3.0), 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert losses.kl_divergence(student, teacher, temperature=2.0).item() == pytest.approx(expected)


def test_kl_over_stacked_teachers_is_each_teachers_own() -> None:
    student, teachers = draw(B, C), draw(T, B, C, seed=1)
    stacked = losses.kl_divergence(student, teachers, temperature=4.0)
    single = [losses.kl_divergence(student, teacher, temperature=4.0) for teacher in teachers]
    torch.testing.assert_close(stacked, torch.stack(single))


def test_kl_gradient_keeps_its_scale_at_high_temperature() -> None:
    student, teacher = draw(B, C).requires_grad_(), draw(B, C, seed=1)
    norms = []
    for temperature in (50.0, 100.0):
        loss = losses.kl_divergence(student, teacher, temperature=temperature).sum()
        norms.append(torch.autograd.grad(loss, student)[0].norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_cross_entropy_and_entropy_agree_with_torch() -> None:
    logits = draw(T, B, C)
    expected = F.cross_entropy(logits.flatten(0, 1), LABELS.repeat(T), reduction="none")
    torch.testing.assert_close(losses.cross_entropy(logits, LABELS).flatten(), expected)
    categorical = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(losses.entropy(logits), categorical.entropy())


def test_dkd_adds_up_to_kl_when_weighted_by_the_teachers_doubt() -> None:
    # KL = TCKD + (1 − p_t)·NCKD (Zhao et al. 2022, eq. 6).
    student, teacher = draw(B, C), draw(B, C, seed=1)
    doubt = 1 - F.softmax(teacher / 4, -1).gather(1, LABELS[:, None]).squeeze(1)
    parts = [
        losses.decoupled_divergence(student, teacher, LABELS, temperature=4.0, alpha=a, beta=1 - a)
        for a in (1.0, 0.0)
    ]
    kl = losses.kl_divergence(student, teacher, temperature=4.0)
    torch.testing.assert_close(parts[0] + doubt * parts[1], kl)


@pytest.mark.parametrize("name", ["kl", "dkd"])
@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_divergences_ignore_a_shift_of_all_logits(name: str, shift: float) -> None:
    student, teacher = draw(B, C), draw(B, C, seed=1)
    shifted = PAIRWISE[name](student + shift, teacher - shift)
    torch.testing.assert_close(shifted, PAIRWISE[name](student, teacher))


@pytest.mark.parametrize("labels", ["right", "wrong"])
def test_certain_predictions_leave_float32_losses_and_gradients_finite(labels: str) -> None:
    student = (200 * torch.eye(C)).requires_grad_()
    teachers = torch.stack([-student.detach(), 400 * torch.eye(C)])
    target = torch.arange(C) if labels == "right" else torch.arange(C).roll(1)
    log_weights = torch.tensor([[0.0, -400.0]]).expand(C, 2).clone().requires_grad_()
    loss = losses.decoupled_divergence(student, teachers, target, temperature=1.0).mean()
    loss = loss + mixture_kl(student, teachers, log_weights).mean()
    grads = torch.autograd.grad(loss, [student, log_weights])
    assert all(bool(value.isfinite().all()) for value in (loss, *grads))


def test_mixture_is_of_probabilities_and_sums_to_one() -> None:
    teachers, log_weights = draw(T, B, C), F.log_softmax(draw(B, T, seed=1), -1)
    mixture = losses.mixture_log_probs(teachers, log_weights, temperature=2.0).exp()
    expected = torch.einsum("bt,tbc->bc", log_weights.exp(), F.softmax(teachers / 2, -1))
    torch.testing.assert_close(mixture, expected)
    torch.testing.assert_close(mixture.sum(-1), torch.ones(B, dtype=torch.float64))


def test_mixture_gradients_reach_teacher_weights() -> None:
    inputs = (draw(B, C), draw(T, B, C, seed=1), F.log_softmax(draw(B, T, seed=2), -1))
    leaves = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(mixture_kl, leaves)


def test_relational_weights_scale_their_terms() -> None:
    student, teacher = draw(B, C), draw(B, C, seed=1)
    own, theirs = losses.relations(student), losses.relations(teacher)
    parts = [
        losses.relational_loss(own, theirs, distance_weight=d, angle_weight=a)
        for d, a in ((1.0, 0.0), (0.0, 1.0), (25.0, 50.0))
    ]
    torch.testing.assert_close(25 * parts[0] + 50 * parts[1], parts[2])
    torch.testing.assert_close(parts[1], losses.angle_loss(student, teacher))


def test_angle_of_a_right_triangle_against_a_line() -> None:
    # At vertex 0 the pairs (1, 2) and (2, 1) differ by 1: 2·½ over nine pairs.
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    line = torch.tensor([[0.0], [1.0], [2.0]])
    assert losses.angle_loss(corner, line)[0].item() == pytest.approx(1 / 9)


def test_pooling_brings_the_larger_map_to_the_smaller() -> None:
    small, large = draw(B, 2, 4, 4), draw(B, 3, 8, 8)
    student, teacher = losses.pool_to_smaller(large, small)
    assert student.shape == (B, 3, 4, 4)
    assert teacher is small
    torch.testing.assert_close(student, F.avg_pool2d(large, 2))
    torch.testing.assert_close(losses.pool_to_smaller(small, large)[1], student)


def test_attention_and_channel_norms_are_one() -> None:
    features = draw(B, 3, 4, 4)
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(losses.attention_map(features).norm(dim=1), one.expand(B))
    norms = losses.normalise_channels(features).norm(dim=1)
    torch.testing.assert_close(norms, one.expand(B, 4, 4))
    assert not torch.allclose(
        losses.attention_map(features), losses.attention_map(features, power=4)
    )


def test_features_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(6, 1\).*\(6, 5\)"):
        losses.mean_squared_error(draw(B, 1), draw(B, C))


def test_pooled_logits_are_a_classifier_on_the_mean() -> None:
    features, weight, bias = draw(B, 3, 2, 2), draw(C, 3), draw(C)
    expected = features.mean((2, 3)) @ weight.T + bias
    torch.testing.assert_close(losses.pooled_logits(features, weight=weight, bias=bias), expected)


def test_blend_leans_more_on_the_student_the_further_the_teacher() -> None:
    student = draw(B, C).requires_grad_()
    teachers = torch.stack([student.detach(), -4 * student.detach()])
    weights = losses.blend_weights(student, teachers, temperature=4.0, strength=0.5)
    assert weights[0].abs().max() < 1e-12
    assert ((weights[1] > 0) & (weights[1] < 0.5)).all()
    blended = losses.blended_logits(student, teachers, weights)
    torch.testing.assert_close(blended[1], teachers[1] + weights[1, :, None] * student)
    assert not blended.requires_grad
    doubled = losses.blend_weights(student, teachers, temperature=4.0, strength=1.0)
    torch.testing.assert_close(doubled, 2 * weights)


def test_stepped_weight_changes_at_its_breakpoints() -> None:
    weights = [losses.stepped_weight(epoch, num_epochs=8) for epoch in range(8)]
    assert weights == [1000.0] * 5 + [500.0] + [100.0] * 2
    rising = [
        losses.stepped_weight(e, num_epochs=30, base=1.0, levels=(1, 2), breakpoints=(0.1,))
        for e in (2, 3)
    ]
    assert rising == [1, 2]


@pytest.mark.parametrize(("levels", "breakpoints"), [((1, 2), ()), ((1, 2, 3), (0.7, 0.2))])
def test_stepped_weight_refuses_levels_that_do_not_fit(
    levels: tuple[float, ...], breakpoints: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="breakpoints"):
        losses.stepped_weight(0, num_epochs=8, levels=levels, breakpoints=breakpoints)


def test_weight_drift_is_a_sum_over_what_it_is_given() -> None:
    initial = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2), "other": torch.zeros(3)}
    moved = {name: initial[name] + 1 for name in ("weight", "bias")}
    assert losses.weight_drift(moved, initial).item() == 6.0
