"""MMKD: the golden losses, weights that follow their teachers, every setting, every mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.config import SGD, AdamW
from distill.learners import BilevelLearner, Compute
from distill.learners.bilevel import meta_gradient
from distill.learners.hard_buffer import HardViews
from distill.loading import ConfigError
from distill.methods import config_class
from distill.methods.base import Setting
from distill.methods.mmkd import MMKD
from distill.signals import (
    LossReport,
    ModelOutput,
    TeacherSignals,
)
from orchestrator.preflight import check
from tests.golden.case import Case
from tests.helpers import CPU, tiny
from tests.meta import (
    CLASSES,
    GOLDEN,
    MAP,
    MAPS,
    PROJECTOR_LAYERS,
    SPEC,
    START,
    WIDTH,
    answers,
    build,
    draw,
    golden_method,
    golden_signals,
    make,
    shapes,
    student,
    train,
    weights_of,
)


def test_golden_losses_through_the_method() -> None:
    case = Case(GOLDEN / "mmkd_losses.npz")
    logits, features = case.leaf("student_logits"), case.leaf("student_features")
    teachers, maps = case["teacher_logits"], case.numbered("teacher_features")
    method = golden_method(case, maps, teachers, features.shape[1])
    for k, projector in enumerate(method.projectors):
        case.load(projector, f"projectors.regressor{k}.transfer.", PROJECTOR_LAYERS)
    output, signals = ModelOutput(logits, {"stage3": features}), golden_signals(teachers, maps)
    terms = method.loss(output, signals, case["labels"], progress=START).terms
    div, feat = terms["div"] / method.config.alpha, terms["feat"] / method.config.beta
    logit_weights, feature_weights = method.teacher_weights(output, signals)
    errors = case.errors(
        {
            "loss_div": div,
            "loss_feat": feat,
            "logit_weights": logit_weights,
            "feature_weights": feature_weights,
            **case.gradients(div, {"student_logits": logits}),
            **case.gradients(feat, {"student_features": features}),
        }
    )
    assert len(errors) == 6
    assert max(errors.values()) < 1e-12


class GoldenStudent(nn.Module):
    """The student of ``mmkd_meta_step``: two convolutions with tanh, mean, linear."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        c1, c2, fc = (case.under(f"student.{name}.") for name in ("c1", "c2", "fc"))
        stride = int(case.hp["c2_stride"])
        self.c1 = nn.Conv2d(*c1["weight"].shape[1::-1], 3, stride=2, padding=1)
        self.c2 = nn.Conv2d(*c2["weight"].shape[1::-1], 3, stride=stride, padding=1)
        self.fc = nn.Linear(*fc["weight"].shape[::-1])
        self.double()
        for layer, state in ((self.c1, c1), (self.c2, c2), (self.fc, fc)):
            layer.load_state_dict(state)

    def forward(self, images: Tensor) -> ModelOutput:
        features = self.c2(self.c1(images).tanh()).tanh()
        return ModelOutput(self.fc(features.mean((2, 3))), {"stage3": features})


def test_golden_meta_step_through_the_learner() -> None:
    case = Case(GOLDEN / "mmkd_meta_step.npz")
    teachers, maps = case["hard_teacher_logits"], case.numbered("teacher_features")
    student = GoldenStudent(case)
    method = golden_method(case, maps, teachers, student.c2.out_channels)
    plain = [
        nn.Conv2d(w.shape[1], w.shape[0], 1).double()
        for w in (case[f"projector.p.{k}.weight"] for k in range(len(maps)))
    ]
    for k, conv in enumerate(plain):
        conv.load_state_dict(case.under(f"projector.p.{k}."))
    method.adapters = method.projectors = nn.ModuleList(plain)
    settings = SGD(
        **{name: case.hp[name] for name in ("lr", "momentum", "weight_decay")},
        nesterov=bool(case.hp.get("nesterov", False)),
    )
    inner = dict(student.named_parameters()) | dict(method.adapters.named_parameters())
    optimizer = torch.optim.SGD(inner.values(), lr=settings.lr, momentum=settings.momentum)
    momenta = {
        name.removeprefix("student.").removeprefix("projector.p."): value
        for name, value in case.under("momentum.").items()
    }
    for name, parameter in inner.items():
        optimizer.state[parameter]["momentum_buffer"] = momenta[name]
    hard = HardViews(case["hard_images"], case["hard_labels"], golden_signals(teachers, maps))
    loss, grads = meta_gradient(student, method, hard, optimizer, settings=settings, lr=settings.lr)
    outputs = {"meta_loss": loss}
    for (name, _), grad in zip(method.weights.named_parameters(), grads, strict=True):
        net, layer, kind = name.split(".")
        published = {"hidden": "layer", "output": "all_act"}[layer]
        published_net = {"logits": "logit_net", "features": "feature_net"}[net]
        outputs[f"meta_grad.{published_net}.{published}.{kind}"] = grad
    errors = case.errors(outputs)
    assert len(errors) == 9
    assert max(errors.values()) < 1e-12


# --- the method


def loss_terms(
    method: MMKD, order: tuple[str, ...] = tuple(MAPS), *, num: int = WIDTH, seed: int = 5
) -> LossReport:
    output = ModelOutput(draw(num, CLASSES, seed=1), {"stage3": draw(num, 40, 1, 1, seed=2)})
    signals = answers(tuple(MAPS), num, seed=seed)
    labels = torch.arange(num) % CLASSES
    permuted = TeacherSignals({name: signals.values[name] for name in order})
    return method.loss(output, permuted, labels, progress=START)


def permuted_nets(method: MMKD, order: tuple[str, ...]) -> MMKD:
    """The same method, built for another order of teachers: blocks of weights change places."""
    other = build(order)
    places = [tuple(MAPS).index(name) for name in order]
    for ours, theirs, width in (
        (method.logit_net, other.logit_net, CLASSES),
        (method.feature_net, other.feature_net, WIDTH),
    ):
        blocks = ours.hidden.weight.detach().split(width, dim=1)
        columns = torch.cat([*(blocks[k] for k in places), blocks[-1]], dim=1)
        theirs.hidden.load_state_dict({"weight": columns, "bias": ours.hidden.bias})
        rows = {name: value[places] for name, value in ours.output.state_dict().items()}
        theirs.output.load_state_dict(rows)
    for k, place in enumerate(places):
        other.projectors[k].load_state_dict(method.projectors[place].state_dict())
    return other


def test_teachers_in_another_order_have_their_own_weights_and_the_same_loss() -> None:
    order = ("t2", "t0", "t1")
    method = build()
    one, other = loss_terms(method), loss_terms(permuted_nets(method, order), order)
    assert one.weights.keys() == other.weights.keys() == {"teacher_weight", "feature_weight"}
    for kind, weights in one.weights.items():
        assert tuple(other.weights[kind]) == order
        torch.testing.assert_close(dict(other.weights[kind]), dict(weights))
    torch.testing.assert_close(one.total, other.total)


def test_one_teacher_has_all_the_weight_and_is_ordinary_distillation() -> None:
    names = ("t0",)
    method = build(names, beta=0.0)
    output = ModelOutput(draw(WIDTH, CLASSES, seed=1), {"stage3": draw(WIDTH, 40, 1, 1, seed=2)})
    signals, labels = answers(names, WIDTH, seed=5), torch.arange(WIDTH) % CLASSES
    ours = method.loss(output, signals, labels, progress=START)
    kd = config_class("kd")().build(shapes(names)).loss(output, signals, labels, progress=START)
    torch.testing.assert_close(ours.total, kd.total)
    assert torch.equal(ours.weights["teacher_weight"]["t0"], torch.ones(WIDTH))


def test_one_teacher_leaves_the_weights_nothing_to_learn() -> None:
    learner = make(("t0",), meta_weight_decay=0.0)
    before = weights_of(learner)
    train(learner, 4, names=("t0",))
    torch.testing.assert_close(weights_of(learner), before)


def test_feature_weights_of_a_large_draw_are_those_of_its_groups() -> None:
    method = build()
    output = ModelOutput(draw(16, CLASSES, seed=1), {"stage3": draw(16, 40, 1, 1, seed=2)})
    signals = answers(tuple(MAPS), 16, seed=5)
    whole = method.teacher_weights(output, signals)[1]
    for rows in (slice(0, 8), slice(8, 16)):
        part = ModelOutput(output.logits[rows], {"stage3": output.features["stage3"][rows]})
        cut = {n: {s: v[rows] for s, v in of.items()} for n, of in signals.values.items()}
        torch.testing.assert_close(
            method.teacher_weights(part, TeacherSignals(cut))[1], whole[rows]
        )


def test_needs_are_logits_and_whole_last_maps() -> None:
    taps = {"stage2": (4, 8, 8), "stage3": (9, 4, 4), "pooled": (9,)}
    needs = config_class("mmkd")().needs({"a": taps, "b": dict.fromkeys(taps)}, taps)
    assert needs == {name: frozenset({SPEC, MAP}) for name in ("a", "b")}


KNOBS: dict[str, Any] = {
    "alpha": 0.5,
    "beta": 1.0,
    "temperature": 2.0,
    "meta_every": 3,
    "meta_batch": 2 * WIDTH,
    "buffer_size": 3 * WIDTH,
    "meta_lr": 1e-2,
    "meta_weight_decay": 0.1,
}


@pytest.fixture(scope="module")
def base() -> Tensor:
    learner = make()
    train(learner, 8)
    return torch.cat([nn.utils.parameters_to_vector(learner.student.parameters()).detach()])


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_the_student(base: Tensor, knob: str) -> None:
    assert set(KNOBS) == set(config_class("mmkd").model_fields)
    learner = make(**{knob: KNOBS[knob]})
    train(learner, 8)
    assert not torch.equal(nn.utils.parameters_to_vector(learner.student.parameters()), base)


# --- mistakes


def test_settings_are_checked_before_anything_starts(fashion: Path) -> None:
    teacher = {"arch": "cnn_xs", "checkpoint": "embedded/fashion_resnet8"}
    changes = {"method": "mmkd", "optimizer.name": "adamw", "teachers": [teacher]}
    with pytest.raises(ConfigError, match=r"method: 'mmkd' .* set optimizer.name: sgd"):
        check(tiny(fashion, changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamw"}, "set optimizer.name: sgd"),
        ({"sync_batchnorm": True}, "set workers.sync_batchnorm: false"),
        ({"num_workers": 3}, "3 workers cannot share 64 samples evenly.*schedule.batch_size: 63"),
        ({"batch_size": 48}, "meta_batch 64 is no multiple of it; set meta_batch: 48"),
        ({"batch_size": 128}, "meta_batch 64 is no multiple of it; set meta_batch: 128"),
        ({"num_workers": 2}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_setting_that_does_not_fit_is_answered_with_the_cure(
    change: Mapping[str, Any], message: str | None
) -> None:
    setting = replace(Setting("sgd", batch_size=64, num_workers=1, sync_batchnorm=False), **change)
    config = config_class("mmkd")()
    found = [text for rule in config.requirements if (text := rule(config, setting))]
    assert len(found) == (message is not None)
    if message:
        assert re.search(message, found[0])


def test_a_buffer_smaller_than_a_draw_is_refused() -> None:
    with pytest.raises(ValueError, match=r"meta_batch: 64 views cannot .* buffer of 32"):
        config_class("mmkd")(buffer_size=32)


def test_the_learner_itself_refuses_other_optimizers() -> None:
    with pytest.raises(ValueError, match=r"optimizer.name: .* not adamw's; set .*: sgd"):
        BilevelLearner(student(), build(), optimizer=AdamW(name="adamw"), compute=Compute(CPU))
