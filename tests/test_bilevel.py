"""The bilevel learner: exact meta-gradients, nothing else touched, runs that resume, workers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import SGD
from distill.datasets import load_data
from distill.engine import Fit, fit
from distill.learners import BilevelLearner
from distill.learners.hard_buffer import HardViews
from distill.parallel import Workers
from distill.signals import (
    Progress,
    TeacherSignals,
)
from orchestrator.run_student import batch_plan
from tests.helpers import CPU, Diary, tiny, write_noise
from tests.meta import (
    CLASSES,
    MAPS,
    SPEC,
    WIDTH,
    Answering,
    answers,
    batch_of,
    draw,
    gradient_of,
    make,
    same,
    snapshot,
    train,
    weights_of,
)

# --- the meta-gradient

MOMENTA = [SGD(), SGD(nesterov=True), SGD(momentum=0.0), SGD(clip_norm=0.5)]


def trained(sgd: SGD, *, norm: str = "batch") -> tuple[BilevelLearner, HardViews]:
    """A learner with momentum in float64, and views for it."""
    learner = make(sgd=sgd, norm=norm, beta=1.0)
    train(learner, 3, lr=0.01)
    views = learner.buffer.draw(WIDTH, generator=torch.Generator().manual_seed(0))
    learner.student.double()
    learner.method.parts.double()
    state = learner.optimizer.state
    for entry in state.values():
        if entry.get("momentum_buffer") is not None:
            entry["momentum_buffer"] = entry["momentum_buffer"].double()
    doubled = {
        name: {spec: value.double() for spec, value in values.items()}
        for name, values in views.signals.values.items()
    }
    return learner, replace(views, signals=TeacherSignals(doubled))


@pytest.mark.parametrize("sgd", MOMENTA, ids=["heavy ball", "nesterov", "plain", "clipped"])
def test_virtual_steps_are_those_that_the_students_optimizer_would_take(sgd: SGD) -> None:
    learner, hard = trained(sgd)
    loss, _ = gradient_of(learner, hard)
    method, student = learner.method, learner.student
    for step in range(3):
        output = student(hard.images)
        matching = method.matching(output, hard.signals)
        learner.optimizer.zero_grad()
        (matching if step < 2 else F.cross_entropy(output.logits, hard.labels)).backward()
        own = learner.optimizer.param_groups[0]["params"]
        for parameter in own:  # no gradient counts as zero: decay and momentum go on
            parameter.grad = (
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )
        if sgd.clip_norm:
            nn.utils.clip_grad_norm_(own, sgd.clip_norm)
        learner.optimizer.param_groups[0]["lr"] = 0.01
        learner.optimizer.step()
    after = F.cross_entropy(student(hard.images).logits, hard.labels)
    torch.testing.assert_close(loss, after.detach(), rtol=1e-10, atol=0)


def blind_to_the_student(learner: BilevelLearner) -> None:
    """Weights that do not read the student: what they read of it counts as constant."""
    nets, width = learner.method.weights, {"logits": CLASSES, "features": WIDTH}
    with torch.no_grad():
        for name, net in nets.named_children():
            net.get_parameter("hidden.weight")[:, -width[name] :] = 0.0


@pytest.mark.parametrize("sgd", MOMENTA, ids=["heavy ball", "nesterov", "plain", "clipped"])
def test_the_meta_gradient_agrees_with_finite_differences(sgd: SGD) -> None:
    learner, hard = trained(sgd)
    blind_to_the_student(learner)
    _, gradient = gradient_of(learner, hard)
    start = weights_of(learner)
    direction = gradient / gradient.norm() + draw(len(start), seed=3).double() / 30
    values: list[Tensor] = []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(start + sign * 1e-6 * direction, learner.weights)
        values.append(gradient_of(learner, hard)[0])
    torch.testing.assert_close(
        (values[0] - values[1]) / 2e-6, gradient @ direction, rtol=1e-5, atol=1e-9
    )


# --- what a meta step leaves alone, and what it moves


def test_a_meta_step_moves_the_weights_and_nothing_else() -> None:
    learner = make()
    train(learner, 3)
    before, weights, draws = snapshot(learner), weights_of(learner), torch.get_rng_state()
    learner.meta_step(lr=0.05, generator=torch.Generator().manual_seed(0))
    assert same(snapshot(learner), before)
    assert torch.equal(torch.get_rng_state(), draws)
    assert not torch.equal(weights_of(learner), weights)


def test_a_students_step_moves_student_and_projectors_and_no_weights() -> None:
    learner = make(meta_every=100)
    before, weights = snapshot(learner), weights_of(learner)
    train(learner, 1)
    moved = snapshot(learner)
    assert torch.equal(weights_of(learner), weights)
    for part, name in (
        ("student", "network.stem.0.weight"),
        ("method", "adapters.0.layers.0.bias"),
    ):
        assert not torch.equal(moved[part][name], before[part][name])


def test_meta_steps_come_once_the_buffer_is_full_and_then_every_so_often() -> None:
    learner = make(meta_every=3, buffer_size=4 * WIDTH - 1)
    steps: list[int] = []
    for step in range(12):
        before = weights_of(learner)
        batch, progress = batch_of(seed=step), Progress(step // 4, step % 4, 3, 4)
        learner.step(batch, answers(tuple(MAPS), WIDTH, seed=step), progress=progress, lr=0.01)
        if not torch.equal(weights_of(learner), before):
            steps.append(step)
    assert steps == [5, 8, 11]


def test_no_gradient_reaches_teachers_signals() -> None:
    learner = make()
    train(learner, 2)
    hard = learner.buffer.draw(WIDTH, generator=torch.Generator().manual_seed(0))
    for values in hard.signals.values.values():
        assert not any(value.requires_grad or value.grad is not None for value in values.values())


def test_meta_steps_lower_the_loss_on_the_views_they_learn_on() -> None:
    """A teacher of noise and one that knows: the weights find out which is which."""
    names, batch = ("t0", "t2"), batch_of()
    right = 6.0 * F.one_hot(batch.labels, CLASSES).float()
    signals = answers(names, WIDTH, seed=0)
    values = {name: dict(signals.values[name]) for name in names}
    values["t0"][SPEC], values["t2"][SPEC] = right, -right
    learner = make(names, beta=0.0, meta_every=1, buffer_size=WIDTH, meta_lr=0.01)
    shares: list[float] = []
    for step in range(40):
        report, _ = learner.step(
            batch, TeacherSignals(values), progress=Progress(0, step, 1, 40), lr=0.01
        )
        shares.append(float(report.weights["teacher_weight"]["t0"].mean()))
    assert shares[-1] > shares[0] + 0.2
    assert learner.end_epoch().keys() == {"meta/loss"}


# --- resuming, and workers


def run(file: Path, diary: Diary, *, start_epoch: int = 0, state: Any = None) -> BilevelLearner:
    """Three epochs through the engine, from the start or from a checkpoint."""
    experiment = tiny(file, {"schedule.epochs": 3, "schedule.batch_size": WIDTH})
    data = load_data(experiment.data)
    task = Fit(
        batch_plan(experiment, data, seed=0), experiment.schedule, 0.05, data.validation, CPU
    )
    learner = make(meta_every=3)
    if state is not None:
        learner.load_state_dict(state)
    fit(task, learner, Answering(tuple(MAPS)), diary, start_epoch=start_epoch)
    return learner


@pytest.mark.parametrize("epoch", [0, 1], ids=["a buffer that fills", "a full one"])
def test_a_run_that_was_killed_ends_as_an_unbroken_one(tmp_path: Path, epoch: int) -> None:
    file = write_noise(tmp_path / "noise.npz", num_train=20, num_classes=CLASSES)
    whole, rest = Diary(), Diary()
    run(file, whole)
    stored = io.BytesIO()
    torch.save(whole.states[epoch], stored)
    stored.seek(0)
    torch.rand(3)
    run(file, rest, start_epoch=epoch + 1, state=torch.load(stored, weights_only=True))
    assert same(rest.states[-1], whole.states[-1])
    assert rest.rows[-1]["meta/loss"] == whole.rows[-1]["meta/loss"]


def test_each_rank_resumes_with_its_own_buffer() -> None:
    learners = [make(workers=Workers(rank, 2)) for rank in (0, 1)]
    states = []
    for learner, seed in zip(learners, (0, 50), strict=True):
        batch, signals = batch_of(seed=seed), answers(tuple(MAPS), WIDTH, seed=seed)
        missed = torch.ones(WIDTH, dtype=torch.bool)
        learner.buffer.add(batch, signals, missed, generator=torch.Generator())
        states.append(learner.buffer.state_dict())
    state = learners[0].state_dict() | {"buffers": states}
    for rank, own in enumerate(states):
        again = make(workers=Workers(rank, 2))
        again.load_state_dict(state)
        assert same(again.buffer.state_dict(), own)
