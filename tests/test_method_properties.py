"""What holds for every method: symmetries, gradients, settings, steps; K = 1; mistakes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.config import as_method
from distill.methods import MethodConfig, config_class
from distill.signals import ModelOutput, Progress
from tests.method_bench import (
    NAMES,
    B,
    Bench,
    configured,
    leaves,
    permuted,
)

BENCH = Bench.standard()
ORDER = (2, 0, 1)
START = Progress(0, 0, 8, 1)
NO_FEATURES = {"camkd": {"feature_weight": 0}, "gpac": {"attention_weight": 0, "corrector": "none"}}
# One other value of every setting; a second setting where only together they can matter.
CHANGES: dict[str, dict[str, Any]] = {
    "kd": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5},
    "dkd": {"temperature": 2, "ce_weight": 0.5, "alpha": 2, "beta": 2, "warmup_epochs": 5},
    "ebkd": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5},
    "aekd": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5, "tolerance": 0.4},
    "camkd": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5, "feature_weight": 5},
    "fitnet": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5, "hint_weight": 5, "stage": 3},
    "at": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5, "attention_weight": 5},
    "sp": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5, "similarity_weight": 5},
    "rkd": {
        "temperature": 2,
        "ce_weight": 0.5,
        "kd_weight": 0.5,
        "distance_weight": 5,
        "angle_weight": 5,
    },
    "pkt": {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5, "transfer_weight": 5},
    "simkd": {"feature_weight": 2, "factor": 1},
    "amtml": {
        "temperature": 2,
        "alpha": 0.5,
        "angle_weight": 2,
        "hint_weight": 2,
        "hint_groups": "all",
        "gate_epochs": 3,
        "gate_detach": False,
        "gate_decay": 0.1,
    },
    "gpac": {
        "temperature": 2,
        "alpha": 0.5,
        "corrector": "scale",
        "strength": 1,
        "attention_weight": 5,
        "levels": (0.1, 0.5, 1.0),
        "breakpoints": (0.1, 0.9),
        "assignment": "s1:t1",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_survives_being_written_and_read(name: str) -> None:
    config = configured(name)
    read = as_method(config.model_dump(mode="json"))
    assert read == config
    assert read.name == name


@pytest.mark.parametrize(
    ("name", "setting"), [(n, s) for n in CHANGES for s in CHANGES[n]], ids=lambda value: value
)
def test_every_setting_changes_the_outcome(name: str, setting: str) -> None:
    assert set(config_class(name).model_fields) - {"probes"} == set(CHANGES[name])
    base = configured(name)
    changed = configured(name, **{setting: CHANGES[name][setting]})
    before, after = outcome(base), outcome(changed)
    assert len(before) != len(after) or not torch.allclose(before, after, rtol=1e-6)


def outcome(config: MethodConfig) -> Tensor:
    """The loss, and its gradients by the student's outputs and by every part."""
    student, inputs = leaves(BENCH.student)
    bench = replace(BENCH, student=student)
    method = bench.build(config)
    total = bench.loss(config, method).total
    inputs += list(method.parts.parameters())
    used = [value for value in inputs if value.requires_grad]
    grads = dict(
        zip(map(id, used), torch.autograd.grad(total, used, allow_unused=True), strict=True)
    )
    found = [grads.get(id(value)) for value in inputs]
    flat = [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, found, strict=True)]
    return torch.cat([total.reshape(1), *(value.detach().reshape(-1) for value in flat)])


def test_every_method_is_tested() -> None:
    assert set(CHANGES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_teachers_does_not_matter(name: str) -> None:
    settings = {"hint_groups": "none"} if name == "amtml" else {}
    config, names = configured(name, **settings), list(BENCH.teachers)
    other = BENCH.order([names[k] for k in ORDER])
    moved = config
    if name == "gpac":
        groups = ((s, ORDER.index((s - 1) % 3)) for s in (1, 2, 3))
        moved = configured(name, assignment=",".join(f"s{s}:t{t}" for s, t in groups))
    method, again = BENCH.build(config), other.build(moved)
    again.parts.load_state_dict(permuted(method.parts.state_dict(), ORDER))
    report, same = BENCH.loss(config, method), other.loss(moved, again)
    torch.testing.assert_close(same.total, report.total)
    assert same.weights.keys() == report.weights.keys()
    for kind, weights in report.weights.items():
        assert list(same.weights[kind]) == [names[k] for k in ORDER]
        torch.testing.assert_close(dict(same.weights[kind]), dict(weights))
    for scalar, value in report.scalars.items():
        torch.testing.assert_close(same.scalars[scalar], value)


@pytest.mark.parametrize("name", ["ebkd", "aekd", "camkd", "gpac"])
def test_one_teacher_alone_is_plain_distillation(name: str) -> None:
    alone = BENCH.order(["b.1"])
    config = configured(name, 1, **NO_FEATURES.get(name, {}))
    report, plain = alone.loss(config), alone.loss(configured("kd"))
    torch.testing.assert_close(report.total, plain.total)
    for weights in report.weights.values():
        torch.testing.assert_close(weights["b.1"], torch.ones_like(weights["b.1"]))


def test_one_teacher_of_amtml_is_plain_distillation_with_its_alpha() -> None:
    alone = BENCH.order(["a"])
    config = configured("amtml", 1, hint_groups="none", angle_weight=0, gate_decay=0)
    plain = configured("kd", temperature=5, ce_weight=0.3, kd_weight=0.7)
    torch.testing.assert_close(alone.loss(config).total, alone.loss(plain).total)


@pytest.mark.parametrize("name", ["kd", "dkd", "at", "sp", "rkd", "pkt", "aekd"])
def test_equal_teachers_count_as_one(name: str) -> None:
    alone = BENCH.order(["a"])
    twins = replace(alone, teachers=dict.fromkeys(("a", "b", "c"), BENCH.teachers["a"]))
    torch.testing.assert_close(
        twins.loss(configured(name)).total, alone.loss(configured(name)).total
    )


SMOOTH: dict[str, dict[str, Any]] = {
    # What is detached on purpose has no gradient that differences could show.
    "amtml": {"gate_detach": False, "angle_weight": 0},
    "gpac": {"corrector": "scale"},
}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right(name: str) -> None:
    bench = BENCH.order(["a"]) if name == "aekd" else BENCH
    config = configured(name, len(bench.teachers), **SMOOTH.get(name, {}))
    method = bench.build(config)
    student, inputs = leaves(bench.student)

    def total(logits: Tensor, *features: Tensor) -> Tensor:
        output = ModelOutput(logits, dict(zip(student.features, features, strict=True)))
        return replace(bench, student=output).loss(config, method, progress=START).total

    assert torch.autograd.gradcheck(total, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("kd", {}),
        ("dkd", {}),
        ("ebkd", {}),
        ("at", {}),
        ("camkd", NO_FEATURES["camkd"]),
        ("gpac", {}),
        ("amtml", {"angle_weight": 0, "hint_groups": "all"}),
    ],
)
def test_a_batch_is_the_mean_of_its_samples(name: str, settings: dict[str, Any]) -> None:
    config = configured(name, **settings)
    method = BENCH.build(config)
    alone = [BENCH.rows(slice(b, b + 1)).loss(config, method).total for b in range(B)]
    torch.testing.assert_close(torch.stack(alone).mean(), BENCH.loss(config, method).total)


@pytest.mark.parametrize("name", NAMES)
def test_state_is_whole(name: str) -> None:
    config = configured(name)
    method, other = BENCH.build(config, seed=1), BENCH.build(config, seed=2)
    other.parts.load_state_dict(method.parts.state_dict())
    torch.testing.assert_close(
        BENCH.loss(config, other).total, BENCH.loss(config, method).total, rtol=0, atol=0
    )
