"""The standard learner: one step by hand, clipping, shares of workers, state."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill.batches import plain_batches
from distill.config import SGD, AdamW
from distill.learners import Compute, Learner, build_optimizer
from distill.parallel import ALONE, Workers
from distill.signals import Batch, Progress, SignalSpec, TeacherSignals
from tests.helpers import CPU, flat_weights, make_fit, tiny

NOTHING = TeacherSignals({})
START = Progress(0, 0, 1, 1)
BARE = {"student.options": {"norm": "none"}, "optimizer.weight_decay": 0.0}


def setup(fashion: Path, changes: dict[str, object]) -> tuple[Learner, Batch]:
    task, learner = make_fit(tiny(fashion, BARE | changes))
    return learner, next(plain_batches(task.plan.split, np.arange(40), batch_size=40))


def gradient(learner: Learner, batch: Batch) -> torch.Tensor:
    """Of the mean cross-entropy, from autograd alone."""
    loss = F.cross_entropy(learner.student(batch.images).logits, batch.labels)
    grads = torch.autograd.grad(loss, list(learner.student.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


def test_a_step_is_minus_the_rate_times_the_gradient(fashion: Path) -> None:
    learner, batch = setup(fashion, {"optimizer.momentum": 0.0})
    before, expected = flat_weights(learner.student), gradient(learner, batch)
    report, output = learner.step(batch, NOTHING, progress=START, lr=0.3)
    moved = before - flat_weights(learner.student)
    torch.testing.assert_close(moved, 0.3 * expected, rtol=1e-4, atol=1e-6)
    assert not report.total.requires_grad
    loss = F.cross_entropy(output.logits, batch.labels)
    torch.testing.assert_close(report.total, loss.detach())


def test_what_a_step_returns_holds_no_graph(fashion: Path) -> None:
    learner, batch = setup(fashion, {})
    report, output = learner.step(batch, NOTHING, progress=START, lr=0.1)
    tensors = [*report.terms.values(), output.logits, *output.features.values()]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_heavy_ball_momentum_by_hand(fashion: Path) -> None:
    learner, batch = setup(fashion, {"optimizer.momentum": 0.5})
    first = gradient(learner, batch)
    learner.step(batch, NOTHING, progress=START, lr=0.1)
    middle, second = flat_weights(learner.student), gradient(learner, batch)
    learner.step(batch, NOTHING, progress=START, lr=0.2)
    moved = middle - flat_weights(learner.student)
    torch.testing.assert_close(moved, 0.2 * (0.5 * first + second), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("clip", "factor"), [(1e-2, None), (1e3, 1.0)])
def test_clipping_bounds_the_norm_and_leaves_small_gradients(
    fashion: Path, clip: float, factor: float | None
) -> None:
    learner, batch = setup(fashion, {"optimizer.momentum": 0.0, "optimizer.clip_norm": clip})
    before, plain = flat_weights(learner.student), gradient(learner, batch)
    learner.step(batch, NOTHING, progress=START, lr=1.0)
    moved = before - flat_weights(learner.student)
    scale = clip / float(plain.norm()) if factor is None else factor
    torch.testing.assert_close(moved, scale * plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_a_batch_once_and_differ_by_at_most_one(size: int) -> None:
    shares = [Workers(rank, size).share(40) for rank in range(size)]
    assert [i for share in shares for i in range(40)[share]] == list(range(40))
    lengths = [len(range(40)[share]) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_one_worker_reduces_nothing() -> None:
    value = torch.tensor([1.0, 2.0])
    assert ALONE.sum(value) is value
    ALONE.average([value])
    assert value.tolist() == [1.0, 2.0]


def test_state_restores_weights_and_momentum(fashion: Path) -> None:
    learner, batch = setup(fashion, {})
    learner.step(batch, NOTHING, progress=START, lr=0.1)
    other, _ = setup(fashion, {})
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for each in (learner, other):
        each.step(batch, NOTHING, progress=START, lr=0.1)
    assert torch.equal(flat_weights(learner.student), flat_weights(other.student))


def test_a_checkpoint_brings_momentum_but_no_settings(fashion: Path) -> None:
    learner, batch = setup(fashion, {"optimizer.weight_decay": 0.0})
    learner.step(batch, NOTHING, progress=START, lr=0.1)
    decayed, _ = setup(fashion, {"optimizer.weight_decay": 0.5})
    decayed.load_state_dict(copy.deepcopy(learner.state_dict()))
    for each in (learner, decayed):
        each.step(batch, NOTHING, progress=START, lr=0.1)
    assert flat_weights(decayed.student).norm() < 0.97 * flat_weights(learner.student).norm()


def test_signals_are_widened_to_float32() -> None:
    spec = SignalSpec("logits")
    half = torch.tensor([[0.1, 3.0]], dtype=torch.float16)
    moved = Compute(CPU).signals(TeacherSignals({"a": {spec: half}})).of("a", spec)
    assert moved.dtype == torch.float32
    assert torch.equal(moved, half.float())


def test_the_optimizer_is_the_configured_one() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    sgd = build_optimizer([parameter], SGD(lr=0.3, momentum=0.8, weight_decay=0.1, nesterov=True))
    assert isinstance(sgd, torch.optim.SGD)
    assert {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True}.items() <= (
        sgd.defaults.items()
    )
    adam = build_optimizer([parameter], AdamW(name="adamw", betas=(0.7, 0.8)))
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.defaults["betas"] == (0.7, 0.8)
