"""The adaptive-teacher learner: two optimizers, a shared classifier, runs that resume."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from distill.config import SGD, AdamW
from distill.datasets import load_data
from distill.engine import Fit, fit
from distill.learners import LEARNERS, AdaptiveTeacherLearner
from distill.methods import config_class
from distill.signals import (
    LOGITS,
    Progress,
    SignalSpec,
)
from orchestrator.run_student import batch_plan
from orchestrator.sources import NoSource
from tests.helpers import CPU, Diary, flat_weights, tiny, write_noise
from tests.meta import CLASSES, WIDTH, batch_of, same
from tests.residents import (
    ARCHS,
    NOTHING,
    START,
    body,
    build,
    make,
    train,
)


def test_a_step_by_hand() -> None:
    """Bodies first, by the method's loss; then classifiers, by what the moved bodies say."""
    sgd = SGD(momentum=0.0, weight_decay=0.0)
    learner, twin = make(("a",), optimizer=sgd), make(("a",), optimizer=sgd)
    batch, method = batch_of(), twin.method
    learner.step(batch, NOTHING, progress=START, lr=0.1)
    output = twin.student(batch.images)
    total = method.loss(output, method.ask(batch.images), batch.labels, progress=START).total
    weight = method.teachers[0].model.get_parameter("network.stage2.0.weight")
    (gradient,) = torch.autograd.grad(total, [weight])
    moved = learner.method.teachers[0].model.get_parameter("network.stage2.0.weight")
    torch.testing.assert_close(moved, weight - 0.1 * gradient)
    before = method.classifiers[0].bias.detach().clone()
    fresh = learner.method.teachers[0].model(batch.images).features["pooled"]
    head = method.classifiers[0]
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(head(fresh.detach()), batch.labels), [head.bias]
    )
    torch.testing.assert_close(learner.method.classifiers[0].bias, before - 0.1 * gradient)


def test_every_parameter_has_one_optimizer() -> None:
    learner = make()
    groups = [
        {id(value) for value in optimizer.param_groups[0]["params"]}
        for optimizer in (learner.optimizer, learner.classifier_optimizer)
    ]
    modules = (learner.student, learner.method.parts)
    assert set.intersection(*groups) == set()
    assert set.union(*groups) == {id(value) for m in modules for value in m.parameters()}
    assert groups[1] == {id(value) for value in learner.method.classifiers.parameters()}


def test_channels_last_lays_out_teachers_and_adapters_too() -> None:
    parts = make(channels_last=True).method.parts
    kernels = [value for value in parts.parameters() if value.ndim == 4 and value.shape[-1] > 1]
    assert len(kernels) > len(ARCHS)
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)


def test_everything_of_a_teacher_moves() -> None:
    learner = make()
    before = [body(learner, k) for k in (0, 1)]
    classifiers = flat_weights(learner.method.classifiers)
    train(learner, 3)
    for k, start in enumerate(before):
        assert not any(torch.equal(value, start[name]) for name, value in body(learner, k).items())
    assert not torch.equal(flat_weights(learner.method.classifiers), classifiers)


def test_evaluation_leaves_teachers_in_training_mode() -> None:
    learner = make()
    learner.inference_model().eval()
    assert all(
        module.training
        for t in learner.method.teachers
        for module in t.model.modules()
        if module is not t.classifier
    )


def test_the_loss_falls_and_teachers_stay_near() -> None:
    learner = make()
    reports = [
        learner.step(batch_of(), NOTHING, progress=Progress(0, step, 1, 40), lr=0.02)[0]
        for step in range(40)
    ]
    assert reports[-1].terms["feature"] < 0.5 * reports[0].terms["feature"]
    drifts = learner.end_epoch()
    assert set(drifts) == {"teacher_drift/a", "teacher_drift/b"}
    assert all(0 < drift < 0.2 for drift in drifts.values())


def test_a_heavier_penalty_holds_teachers_back() -> None:
    light, heavy = make(penalty=0.01), make(penalty=10.0)
    for learner in (light, heavy):
        train(learner, 10, lr=0.02)
    for name, drift in light.end_epoch().items():
        assert heavy.end_epoch()[name] < drift


def test_a_step_answers_as_the_inference_model_in_training() -> None:
    learner = make()
    twin = copy.deepcopy(learner.inference_model()).train()
    ((report, output),) = train(learner, 1)
    torch.testing.assert_close(output.logits, twin(batch_of(seed=0).images).logits)
    assert not output.logits.requires_grad
    assert not report.total.requires_grad
    assert set(report.terms) == {"feature", "penalty", "teacher_ce"}
    assert set(report.scalars) == {"teacher_accuracy/a", "teacher_accuracy/b"}


def test_the_inference_model_is_trunk_projectors_and_shared_classifiers() -> None:
    learner = make(("a",))
    train(learner, 2)
    model = learner.inference_model().eval()
    images = batch_of(5).images
    features = learner.student(images).features["stage3"]
    projected = learner.method.heads.projectors[0](features)
    logits = learner.method.teachers[0].classifier(projected.mean((2, 3)))
    torch.testing.assert_close(model(images).logits, F.log_softmax(logits, dim=1))
    bodies = sum(p.numel() for p in learner.method.teachers[0].parameters())
    assert (
        sum(p.numel() for p in model.parameters()) < flat_weights(learner.student).numel() + bodies
    )


KNOBS: dict[str, Any] = {
    "feature_weight": 2.0,
    "penalty": 0.1,
    "penalty_on": "all",
    "factor": 4,
}


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_the_student(knob: str) -> None:
    assert set(KNOBS) == set(config_class("atsc").model_fields)
    learners = [make(), make(**{knob: KNOBS[knob]})]
    for learner in learners:
        train(learner, 3)
    assert not torch.equal(*(flat_weights(learner.student) for learner in learners))


@pytest.mark.parametrize(
    "optimizer",
    [SGD(nesterov=True), SGD(clip_norm=0.01), AdamW(name="adamw")],
    ids=["nesterov", "clipped", "adamw"],
)
def test_the_configured_optimizer_trains_both(optimizer: SGD | AdamW) -> None:
    base, other = make(), make(optimizer=optimizer)
    for learner in (base, other):
        train(learner, 3, lr=1e-2)
    assert not torch.equal(flat_weights(base.student), flat_weights(other.student))
    heads = (flat_weights(learner.method.classifiers) for learner in (base, other))
    assert not torch.equal(*heads)


# --- resuming, and workers


def run(file: Path, diary: Diary, *, start_epoch: int = 0, state: Any = None) -> None:
    """Three epochs through the engine, from the start or from a checkpoint."""
    experiment = tiny(file, {"schedule.epochs": 3, "schedule.batch_size": WIDTH})
    data = load_data(experiment.data)
    task = Fit(
        batch_plan(experiment, data, seed=0), experiment.schedule, 0.05, data.validation, CPU
    )
    learner = make()
    if state is not None:
        learner.load_state_dict(state)
    fit(task, learner, NoSource(), diary, start_epoch=start_epoch)


def test_a_run_that_was_killed_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    file = write_noise(tmp_path / "noise.npz", num_train=40, num_classes=CLASSES)
    whole, rest = Diary(), Diary()
    run(file, whole)
    stored = io.BytesIO()
    torch.save(whole.states[0], stored)
    stored.seek(0)
    run(file, rest, start_epoch=1, state=torch.load(stored, weights_only=True))
    assert same(rest.states[-1], whole.states[-1])
    for name in ("teacher_drift/a", "method/teacher_accuracy/b", "accuracy/validation"):
        assert rest.rows[-1][name] == whole.rows[-1][name]


def test_the_registry_has_this_learner() -> None:
    assert LEARNERS[config_class("atsc").learner] is AdaptiveTeacherLearner
    assert SignalSpec(LOGITS) not in build().ask(batch_of().images).values["a"]
