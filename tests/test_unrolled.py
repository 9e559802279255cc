"""The unrolled optimiser takes SGD's steps, and its derivative is that of the whole chain."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from distill.unrolled import Unrolled, unroll_sgd

SGD = [(0.0, False), (0.9, False), (0.9, True)]


def start() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    values, momenta = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    names = ("used", "also", "idle")
    return dict(zip(names, values, strict=True)), dict(zip(names, momenta, strict=True))


def loss_of(psi: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    return (psi * parameters["used"]).tanh().sum() ** 2 + (psi[0] * parameters["also"]).cos().sum()


def unroll(psi: Tensor, momentum: float, nesterov: bool, num_steps: int = 3) -> Unrolled:
    steps = [lambda parameters: loss_of(psi, parameters)] * num_steps
    return unroll_sgd(
        steps, *start(), lr=0.1, momentum=momentum, weight_decay=0.01, nesterov=nesterov
    )


@pytest.mark.parametrize(("momentum", "nesterov"), SGD)
def test_virtual_steps_are_those_of_torch_sgd(momentum: float, nesterov: bool) -> None:
    psi = torch.linspace(-1, 1, 4, dtype=torch.float64)
    values, momenta = start()
    real = {name: value.clone().requires_grad_() for name, value in values.items()}
    sgd = torch.optim.SGD(
        real.values(), lr=0.1, momentum=momentum, weight_decay=0.01, nesterov=nesterov
    )
    for name, value in real.items():
        sgd.state[value]["momentum_buffer"] = momenta[name].clone()
    for _ in range(3):
        sgd.zero_grad()
        loss_of(psi, real).backward()
        real["idle"].grad = torch.zeros_like(real["idle"])
        sgd.step()
    end = unroll(psi, momentum, nesterov)
    for name, value in real.items():
        torch.testing.assert_close(end.parameters[name], value)
        if momentum:
            torch.testing.assert_close(end.buffers[name], sgd.state[value]["momentum_buffer"])


@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 1e3])
def test_clipped_steps_are_those_of_torch(clip_norm: float) -> None:
    psi, (values, _) = torch.linspace(-1, 1, 4, dtype=torch.float64), start()
    real = {name: value.clone().requires_grad_() for name, value in values.items()}
    loss_of(psi, real).backward()
    torch.nn.utils.clip_grad_norm_([real["used"], real["also"]], clip_norm)
    end = unroll_sgd(
        [lambda parameters: loss_of(psi, parameters)],
        values,
        {},
        lr=0.1,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=clip_norm,
    )
    for name in ("used", "also"):
        torch.testing.assert_close(values[name] - end.parameters[name], 0.1 * real[name].grad)


@pytest.mark.parametrize(("momentum", "nesterov"), SGD)
def test_meta_gradient_agrees_with_finite_differences(momentum: float, nesterov: bool) -> None:
    def meta_loss(psi: Tensor) -> Tensor:
        return loss_of(torch.ones_like(psi), unroll(psi, momentum, nesterov).parameters)

    psi = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(meta_loss, psi)


def test_meta_gradient_is_not_the_first_order_one() -> None:
    psi = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    whole = torch.autograd.grad(loss_of(psi.detach(), unroll(psi, 0.9, False).parameters), psi)[0]
    before = unroll(psi.detach(), 0.9, False, num_steps=2)
    last = unroll_sgd(
        [lambda parameters: loss_of(psi, parameters)],
        before.parameters,
        before.buffers,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.01,
    )
    short = torch.autograd.grad(loss_of(psi.detach(), last.parameters), psi)[0]
    assert not torch.allclose(whole, short, rtol=0.01)


def test_the_given_tensors_stay_untouched() -> None:
    values, momenta = start()
    copies = {name: value.clone() for name, value in values.items()}
    psi = torch.ones(4, dtype=torch.float64, requires_grad=True)
    end = unroll_sgd(
        [lambda p: loss_of(psi, p)], values, momenta, lr=0.1, momentum=0.9, weight_decay=0.0
    )
    end.parameters["used"].sum().backward()
    assert all(torch.equal(values[name], copies[name]) for name in copies)
    assert all(value.grad is None and not value.requires_grad for value in values.values())


def test_a_missing_buffer_counts_as_zero() -> None:
    values, _ = start()
    ones = torch.ones(4, dtype=torch.float64)
    ends = [
        unroll_sgd(
            [lambda p: loss_of(ones, p)] * 2, values, buffers, lr=0.1, momentum=0.9, weight_decay=0
        )
        for buffers in ({}, {name: torch.zeros_like(value) for name, value in values.items()})
    ]
    torch.testing.assert_close(ends[0].parameters, ends[1].parameters)
    assert len(ends[0].losses) == 2
    assert ends[0].losses[1] != ends[0].losses[0]


def test_mistaken_settings_are_refused() -> None:
    values, momenta = start()
    with pytest.raises(ValueError, match="momentum 0"):
        unroll_sgd([], values, {}, lr=0.1, momentum=0, weight_decay=0, nesterov=True)
    with pytest.raises(ValueError, match="no parameter: idle"):
        unroll_sgd(
            [],
            {"used": values["used"]},
            {"idle": momenta["idle"]},
            lr=0.1,
            momentum=0.9,
            weight_decay=0,
        )
