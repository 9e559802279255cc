"""ATSC: the golden projector, what moves a teacher and what it costs, one loss for several."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill.methods import config_class
from distill.methods.atsc import AdaptiveTeaching
from distill.signals import (
    ModelOutput,
    SignalShapes,
    TeacherSignals,
)
from tests.golden.case import Case
from tests.meta import batch_of
from tests.residents import (
    ARCHS,
    START,
    build,
    make,
    network,
)


def test_the_golden_projector_through_the_method() -> None:
    case = Case(Path(__file__).parent / "golden" / "simkd_projector.npz")
    student, teacher = case.leaf("student"), case["teacher"]
    weight, bias = case["classifier_weight"], case["classifier_bias"]
    resident = network("cnn_xs", seed=0)
    resident.network.fc = nn.Linear(weight.shape[1], weight.shape[0])
    resident.network.fc.load_state_dict({"weight": weight, "bias": bias})
    taps = {"t": {"stage3": tuple(teacher.shape[1:])}}
    shapes = SignalShapes(
        len(weight), len(student), {"stage3": tuple(student.shape[1:])}, {}, taps=taps
    )
    config = config_class("atsc")(factor=int(case.hp["factor"]), penalty=0.0)
    method = config.build(replace(shapes, residents={"t": resident}))
    assert isinstance(method, AdaptiveTeaching)
    layers = {name: f"layers.{name}" for name in "013467"}
    case.load(method.heads.projectors[0], "projector.transfer.", layers)
    method.parts.double()
    signals = TeacherSignals({"t": {method.hints[0].spec: case["pooled_teacher"]}})
    output, labels = ModelOutput(student, {"stage3": student}), torch.zeros(len(student))
    report, logits = method.distil(output, signals, labels, progress=START)
    loss = report.terms["feature"]
    errors = case.errors({"loss": loss, **case.gradients(loss, {"student": student})})
    assert set(errors) == {"loss", "grad_student"}
    assert max(errors.values()) < 1e-12
    torch.testing.assert_close(logits, F.log_softmax(case["student_prediction"], dim=1))


def test_nothing_is_recorded_and_every_teacher_is_used() -> None:
    taps = {"stage3": None, "pooled": None}
    config = config_class("atsc")
    assert config.resident
    assert config().needs({"a": taps, "b": taps}, taps) == {"a": frozenset(), "b": frozenset()}
    with pytest.raises(ValueError, match="no feature map of teacher 'b' is known"):
        config().needs({"a": taps, "b": {"pooled": None}}, taps)


@pytest.mark.parametrize(("penalty_on", "least_axes"), [("matrices", 2), ("all", 0)])
def test_the_penalty_is_a_sum_over_weights_and_spares_the_classifier(
    penalty_on: str, least_axes: int
) -> None:
    method = build(("a",), penalty=3.0, penalty_on=penalty_on)
    teacher = method.teachers[0]
    apart = set(teacher.classifier.parameters())
    before = [
        value.detach().clone()
        for value in teacher.parameters()
        if value.ndim >= least_axes and value not in apart
    ]
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.5)
    moved = sum(value.numel() for value in before)
    images = batch_of().images
    output = network("cnn_s", seed=1)(images)
    report = method.loss(output, method.ask(images), batch_of().labels, progress=START)
    assert report.detach().terms["penalty"].item() == pytest.approx(3.0 * 0.25 * moved, rel=1e-5)
    start = sum(float(value.square().sum()) for value in before)
    assert method.drift()["a"] == pytest.approx(math.sqrt(0.25 * moved / start), rel=1e-5)


def test_teachers_that_have_not_moved_cost_nothing() -> None:
    method = build()
    images = batch_of().images
    report = method.loss(
        network("cnn_s", seed=1)(images), method.ask(images), batch_of().labels, progress=START
    )
    assert report.terms["penalty"].item() == 0
    assert method.drift() == {"a": 0, "b": 0}


def test_gradients_reach_student_projectors_and_bodies_and_no_classifier() -> None:
    learner = make()
    method, images = learner.method, batch_of().images
    output = learner.student(images)
    report = method.loss(output, method.ask(images), batch_of().labels, progress=START)
    report.total.backward()
    assert learner.student.get_parameter("network.stem.0.weight").grad is not None
    assert all(p.grad is not None for p in method.heads.projectors.parameters())
    assert all(p.grad is None for p in method.classifiers.parameters())
    for teacher in method.teachers:
        assert float(next(teacher.model.parameters()).grad.abs().sum()) > 0


def test_classifiers_learn_from_labels_and_nothing_behind_them_does() -> None:
    learner = make()
    report = learner.method.classifier_loss(batch_of().images, batch_of().labels)
    report.total.backward()
    apart = set(learner.method.classifiers.parameters())
    for parameter in learner.method.parts.parameters():
        assert (parameter.grad is not None) == (parameter in apart)


def test_several_teachers_average_losses_and_probabilities_in_any_order() -> None:
    images, labels = batch_of().images, batch_of().labels
    output = network("cnn_s", seed=1)(images)
    found: dict[tuple[str, ...], Any] = {}
    both = build()
    for names in (("a", "b"), ("b", "a"), ("a",), ("b",)):
        method = build(names)
        for name, projector in zip(names, method.heads.projectors, strict=True):
            source = both.heads.projectors[tuple(ARCHS).index(name)]
            projector.load_state_dict(copy.deepcopy(source.state_dict()))
        found[names] = method.distil(output, method.ask(images), labels, progress=START)
    joint, joint_logits = found["a", "b"]
    for report, logits in (found["b", "a"],):
        torch.testing.assert_close(report.total, joint.total)
        torch.testing.assert_close(logits, joint_logits)
    mean = (found["a",][0].total + found["b",][0].total) / 2
    torch.testing.assert_close(joint.total, mean)
    probabilities = (found["a",][1].exp() + found["b",][1].exp()) / 2
    torch.testing.assert_close(joint_logits.exp(), probabilities)
