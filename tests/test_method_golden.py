"""Methods against the numbers of their authors' code: weights, terms and gradients.

The terms that a case does not hold (cross-entropy, distillation) are set to weight 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill.methods import MethodConfig
from distill.signals import LossReport, ModelOutput, Progress
from tests.golden.case import Case
from tests.golden.checks import _BOTTLENECK_LAYERS
from tests.method_bench import Bench, configured

FOLDER = Path(__file__).parent / "golden"
START = Progress(0, 0, 1, 1)
PLAIN = {"ce_weight": 0, "kd_weight": 0}


def golden(name: str) -> Case:
    return Case(FOLDER / f"{name}.npz")


def of_logits(case: Case, student: Tensor) -> Bench:
    """Teachers [T, B, C], or one [B, C], that have nothing but logits."""
    logits = case["teacher_logits"]
    teachers = logits if logits.ndim == 3 else logits[None]
    labels = case["labels"] if "labels" in case.expected else torch.zeros(len(student)).long()
    outputs = {f"t{k}": ModelOutput(z, {}) for k, z in enumerate(teachers)}
    return Bench(ModelOutput(student, {}), outputs, labels, {})


def of_features(student: Tensor, teacher: Tensor, *, tap: str = "stage1") -> Bench:
    """One teacher, and logits of which nothing is read."""
    nothing = torch.zeros(len(student), 2).double()
    return Bench(
        ModelOutput(nothing, {tap: student}),
        {"t0": ModelOutput(nothing, {tap: teacher})},
        torch.zeros(len(student)).long(),
        {},
    )


def compare(case: Case, outputs: Mapping[str, Tensor], *, tolerance: float = 1e-9) -> None:
    errors = case.errors(outputs)
    assert set(errors) == set(outputs)
    assert max(errors.values()) < tolerance, errors


def stacked(report: LossReport, kind: str = "teacher_weight") -> Tensor:
    return torch.stack(list(report.weights[kind].values()))


@pytest.mark.parametrize("name", ["dkd", "ebkd", "camkd_logits"])
def test_logits(name: str) -> None:
    case = golden(name)
    student = case.leaf("student_logits")
    settings = {key: case.hp[key] for key in ("temperature", "alpha", "beta") if key in case.hp}
    rest = {"dkd": {"warmup_epochs": 0}, "camkd_logits": {"feature_weight": 0}}.get(name, {})
    config = configured(name.removesuffix("_logits"), ce_weight=0, **settings, **rest)
    report = of_logits(case, student).loss(config)
    outputs = {"loss": report.total}
    if report.weights:
        outputs["weights"] = stacked(report)
    compare(case, outputs | case.gradients(report.total, {"student_logits": student}))


def test_camkd_features_behind_projectors_that_choose_channels() -> None:
    case = golden("camkd_features")
    count = case.count("projected_student_")
    students = [case.leaf(f"projected_student_{k}") for k in range(count)]
    teachers = case.numbered("teacher_features")
    heads = zip(case.numbered("head_weight"), case.numbered("head_bias"), strict=True)
    nothing = torch.zeros(len(students[0]), len(case["head_bias_0"])).double()
    bench = Bench(
        ModelOutput(nothing, {"stage1": torch.cat(students, 1)}),
        {f"t{k}": ModelOutput(nothing, {"stage1": t}) for k, t in enumerate(teachers)},
        case["labels"],
        {f"t{k}": head for k, head in enumerate(heads)},
    )
    config = configured("camkd", **PLAIN)
    method, start = bench.build(config), 0
    every = torch.eye(sum(s.shape[1] for s in students)).double()[..., None, None]
    for k, student in enumerate(students):
        chosen = nn.Conv2d(every.shape[1], student.shape[1], 1, bias=False)
        chosen.weight = nn.Parameter(every[start : start + student.shape[1]])
        method.projectors[k], start = chosen, start + student.shape[1]
    report = bench.loss(config, method)
    loss = report.total / 50
    torch.testing.assert_close(stacked(report, "feature_weight"), case["weights"])
    inputs = {f"projected_student_{k}": student for k, student in enumerate(students)}
    compare(case, {"loss": loss, **case.gradients(loss, inputs)})


def test_aekd_to_its_solvers_tolerance() -> None:
    case = golden("aekd_logits")
    settings = {key: case.hp[key] for key in ("temperature", "tolerance")}
    report = of_logits(case, case["student_logits"]).loss(
        configured("aekd", ce_weight=0, **settings)
    )
    compare(case, {"weights": stacked(report)[:, 0], "loss": report.total}, tolerance=1e-5)


def test_amtml() -> None:
    case = golden("amtml")
    student, pooled = case.leaf("student_logits"), case.leaf("gate_input")
    config = configured(
        "amtml",
        temperature=case.hp["temperature"],
        alpha=1,
        hint_groups="none",
        gate_detach=False,
    )
    plain = of_logits(case, student)
    with_features = {
        name: ModelOutput(t.logits, {"pooled": pooled}) for name, t in plain.teachers.items()
    }
    bench = Bench(ModelOutput(student, {"pooled": pooled}), with_features, plain.labels, {})
    method = bench.build(config)
    method.gate.load_state_dict({name: case[name] for name in ("theta", "w")})
    report = bench.loss(config, method, progress=START)
    kl = report.terms["kd"]
    inputs = {"student_logits": student, "gate_input": pooled}
    outputs = {
        "kl": kl,
        "weights": stacked(report).T,
        "angle_softmax": report.terms["angle"],
        **case.gradients(kl, inputs | dict(method.gate.named_parameters())),
    }
    compare(case, outputs)


def test_amtml_hint() -> None:
    case = golden("amtml_hint")
    student = case.leaf("student")
    bench = of_features(student, case["teacher"])
    config = configured("amtml", hint_groups="s1:t0")
    method = bench.build(config)
    method.regressors[0].conv.weight = nn.Parameter(case["regressor_weight"])
    loss = bench.loss(config, method).terms["hint"]
    compare(case, {"loss": loss, **case.gradients(loss, {"student": student})})


@pytest.mark.parametrize(
    ("file", "config", "term", "scale"),
    [
        ("attention_transfer", configured("at", **PLAIN), "attention", 1000),
        (
            "attention_transfer",
            configured("gpac", assignment="s1:t0"),
            "attention",
            1000,
        ),
        ("similarity_preserving", configured("sp", **PLAIN), "similarity", 3000),
        ("pkt", configured("pkt", **PLAIN), "transfer", 30000),
        ("rkd", configured("rkd", **PLAIN), "relation", 1),
    ],
    ids=["at", "gpac", "sp", "pkt", "rkd"],
)
def test_features(file: str, config: MethodConfig, term: str, scale: float) -> None:
    case = golden(file)
    student, teacher = case.leaf("student"), case["teacher"]
    tap = "stage1" if student.ndim == 4 else "pooled"
    loss = of_features(student, teacher, tap=tap).loss(config, progress=START).terms[term] / scale
    compare(case, {"loss": loss, **case.gradients(loss, {"student": student})})


def test_fitnet_behind_its_projector() -> None:
    case = golden("fitnet")
    student = case.leaf("projected_student")
    bench, config = of_features(student, case["teacher"]), configured("fitnet", stage=1, **PLAIN)
    method = bench.build(config)
    method.projectors[0] = nn.Identity()
    loss = bench.loss(config, method).terms["hint"] / 100
    compare(case, {"loss": loss, **case.gradients(loss, {"projected_student": student})})


def test_simkd() -> None:
    case = golden("simkd_projector")
    student = case.leaf("student")
    head = case["classifier_weight"], case["classifier_bias"]
    bench = replace(of_features(student, case["teacher"]), classifiers={"t0": head})
    config = configured("simkd", factor=int(case.hp["factor"]))
    method = bench.build(config)
    case.load(method.projectors[0], "projector.transfer.", _BOTTLENECK_LAYERS)
    loss = bench.loss(config, method).total
    (projected,) = method.heads.project(student)
    outputs = {"projected_student": projected, "loss": loss}
    compare(case, outputs | case.gradients(loss, {"student": student}))
    answers = method.heads.classify([projected])
    expected = case["student_prediction"].log_softmax(1)
    torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-12)
