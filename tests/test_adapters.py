"""Properties of the trainable modules between student and teachers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill import adapters, losses

# T teachers, B samples, C classes
T, B, C = 3, 4, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gate_weighs_each_sample_by_the_scores_softmax() -> None:
    gate, pooled = adapters.SampleGate(num_teachers=T, width=7), draw(B, 7)
    scores = torch.stack([(gate.w * gate.theta[k] * pooled).sum(1) for k in range(T)], dim=1)
    torch.testing.assert_close(gate(pooled).exp(), scores.softmax(1))
    torch.testing.assert_close(gate.squared_norm(), gate.w.norm() ** 2 + gate.theta.norm() ** 2)


def test_gate_follows_a_permutation_of_teachers_and_gives_one_teacher_all() -> None:
    gate, pooled, order = adapters.SampleGate(num_teachers=T, width=7), draw(B, 7), [2, 0, 1]
    before = gate(pooled)
    with torch.no_grad():
        gate.theta.copy_(gate.theta[order])
    torch.testing.assert_close(gate(pooled), before[:, order])
    alone = adapters.SampleGate(num_teachers=1, width=7)
    torch.testing.assert_close(alone(pooled), torch.zeros(B, 1))


def test_hint_regressor_sees_directions_only() -> None:
    regressor = adapters.HintRegressor(student_channels=3, teacher_channels=6)
    features = draw(B, 3, 4, 4)
    torch.testing.assert_close(regressor(5 * features), regressor(features))
    assert [name for name, _ in regressor.named_parameters()] == ["conv.weight"]


@pytest.mark.parametrize("sizes", [(8, 4), (4, 8), (4, 4)])
@pytest.mark.parametrize("projector", [adapters.ChannelProjector, adapters.BottleneckProjector])
def test_projected_features_match_the_teachers_in_shape(
    sizes: tuple[int, int],
    projector: type[adapters.ChannelProjector | adapters.BottleneckProjector],
) -> None:
    student, teacher = draw(B, 3, sizes[0], sizes[0]), draw(B, 6, sizes[1], sizes[1])
    module = projector(student_channels=3, teacher_channels=6)
    projected, pooled = adapters.project_to_match(module, student, teacher)
    assert projected.shape == pooled.shape == (B, 6, 4, 4)
    losses.mean_squared_error(projected, pooled).mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_bottleneck_width_follows_its_factor() -> None:
    widths = {}
    for factor in (1, 2, 4):
        module = adapters.BottleneckProjector(student_channels=3, teacher_channels=8, factor=factor)
        convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        assert all(layer.bias is None for layer in convolutions)
        widths[factor] = convolutions[1].in_channels
    assert widths == {1: 8, 2: 4, 4: 2}


def test_bottleneck_refuses_a_factor_that_leaves_no_channel() -> None:
    with pytest.raises(ValueError, match=r"factor 9 .* 8 channels"):
        adapters.BottleneckProjector(student_channels=3, teacher_channels=8, factor=9)


def test_weight_nets_give_a_distribution_and_no_gradient_to_the_student() -> None:
    logits, features = draw(B, C).requires_grad_(), draw(B, 3, 2, 2).requires_grad_()
    by_logit = adapters.LogitWeightNet(num_teachers=T, num_classes=C)(logits, draw(T, B, C))
    teachers = [draw(B, width, 4, 4) for width in (2, 3, 5)]
    by_feature = adapters.FeatureWeightNet(num_teachers=T, batch_size=B)(features, teachers)
    for weights in (by_logit, by_feature):
        torch.testing.assert_close(weights.sum(1), torch.ones(B))
        weights[:, 0].sum().backward()
    assert logits.grad is None
    assert features.grad is None


def test_feature_weight_net_refuses_another_batch_size() -> None:
    net = adapters.FeatureWeightNet(num_teachers=1, batch_size=B)
    with pytest.raises(ValueError, match=f"batch of 2 samples.*{B}"):
        net(draw(2, 3), [draw(2, 3)])


def test_teacher_scales_start_as_the_identity_and_learn_their_own_teachers_gap() -> None:
    scales, student = adapters.TeacherScales(num_teachers=2), draw(B, C)
    torch.testing.assert_close(scales(student), student.expand(2, B, C))
    teachers = torch.stack([student, 3 * student])
    losses.kl_divergence(scales(student), teachers, temperature=4.0).mean().backward()
    assert scales.scales.grad is not None
    assert scales.scales.grad[0].abs() < 1e-6
    assert scales.scales.grad[1] < 0


@pytest.mark.parametrize(("start", "bound"), [(20.0, 10.0), (0.01, 0.1)])
def test_teacher_scales_keep_their_bounds_and_can_come_back(start: float, bound: float) -> None:
    scales = adapters.TeacherScales(num_teachers=1)
    nn.init.constant_(scales.scales, start)
    inward = 1.0 if start > bound else -1.0
    for sign, expected in ((inward, inward), (-inward, 0.0)):
        scales.zero_grad()
        value = scales(torch.ones(1, 1))
        (sign * value.sum()).backward()
        assert value.item() == pytest.approx(bound)
        assert scales.scales.grad is not None
        assert scales.scales.grad.item() == expected
