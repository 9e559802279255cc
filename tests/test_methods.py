"""The methods ce and kd: the golden case, symmetries, gradients, and every setting's effect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.methods import Method, MethodConfig, config_class, method_names
from distill.signals import (
    LOGITS,
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    SignalSpec,
    TeacherSignals,
)
from tests.golden.case import Case

SPEC = SignalSpec(LOGITS)
START = Progress(0, 0, 1, 1)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(config: MethodConfig, *, num_teachers: int = 1) -> Method:
    names = [f"t{k}" for k in range(num_teachers)]
    teachers = {name: {SPEC: (5,)} for name in names}
    return config.build(SignalShapes(5, 6, student={}, teachers=teachers))


def loss_of(
    name: str, student: Tensor, teachers: list[Tensor], labels: Tensor = LABELS, **settings: float
) -> LossReport:
    method = build(config_class(name)(**settings), num_teachers=len(teachers))
    signals = TeacherSignals({f"t{k}": {SPEC: logits} for k, logits in enumerate(teachers)})
    return method.loss(ModelOutput(student, {}), signals, labels, progress=START)


def test_kd_reproduces_the_golden_case() -> None:
    case = Case(Path(__file__).parent / "golden" / "kd.npz")
    student, teacher = case.leaf("student_logits"), case["teacher_logits"]
    labels = torch.zeros(len(student), dtype=torch.int64)
    settings = {"temperature": case.hp["temperature"], "ce_weight": 0.0}
    loss = loss_of("kd", student, [teacher], labels, **settings).total
    outputs = {"loss": loss, **case.gradients(loss, {"student_logits": student})}
    errors = case.errors(outputs)
    assert set(errors) == {"loss", "grad_student_logits"}
    assert max(errors.values()) < 1e-12


def test_ce_is_the_mean_cross_entropy() -> None:
    student = draw(6, 5)
    report = loss_of("ce", student, [])
    torch.testing.assert_close(report.total, F.cross_entropy(student, LABELS))
    assert list(report.terms) == ["ce"]


def test_kd_by_hand_for_two_classes() -> None:
    student, teacher = torch.zeros(1, 2).double(), torch.tensor([[2.0, 0.0]]).double()
    report = loss_of("kd", student, [teacher], torch.tensor([0]), temperature=2.0)
    p = 1 / (1 + torch.tensor(-1.0).exp().double())
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    torch.testing.assert_close(report.terms["kd"], 4 * (torch.tensor(2.0).log() - entropy))
    torch.testing.assert_close(report.terms["ce"], torch.tensor(2.0).log().double())


def test_equal_teachers_count_as_one() -> None:
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    one, three = loss_of("kd", student, [teacher]), loss_of("kd", student, [teacher] * 3)
    torch.testing.assert_close(three.total, one.total)


def test_several_teachers_give_the_mean_of_their_losses_in_any_order() -> None:
    student, teachers = draw(6, 5), [draw(6, 5, seed=k) for k in (1, 2, 3)]
    alone = [loss_of("kd", student, [teacher]).terms["kd"] for teacher in teachers]
    together = loss_of("kd", student, teachers).terms["kd"]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    torch.testing.assert_close(loss_of("kd", student, teachers[::-1]).terms["kd"], together)


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it() -> None:
    student = draw(6, 5).requires_grad_()
    kd = loss_of("kd", student, [student.detach()], ce_weight=0.0).total
    torch.testing.assert_close(kd, torch.zeros_like(kd))
    (gradient,) = torch.autograd.grad(kd, [student])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("setting", ["temperature", "ce_weight", "kd_weight"])
def test_every_setting_of_kd_changes_the_loss(setting: str) -> None:
    assert set(config_class("kd").model_fields) == {"temperature", "ce_weight", "kd_weight"}
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    base, changed = (
        loss_of("kd", student, [teacher]),
        loss_of("kd", student, [teacher], **{setting: 0.5}),
    )
    assert not torch.isclose(base.total, changed.total)


def test_weights_scale_their_own_term_and_no_other() -> None:
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    base = loss_of("kd", student, [teacher]).terms
    scaled = loss_of("kd", student, [teacher], ce_weight=0.25, kd_weight=3.0).terms
    torch.testing.assert_close(scaled["ce"], 0.25 * base["ce"])
    torch.testing.assert_close(scaled["kd"], 3 * base["kd"])


def test_gradients_are_right() -> None:
    teachers = [draw(6, 5, seed=1), draw(6, 5, seed=2)]
    student = draw(6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss_of("kd", z, teachers).total, student)
    assert torch.autograd.gradcheck(lambda z: loss_of("ce", z, []).total, student)


def test_needs_are_every_teachers_logits_or_none() -> None:
    assert config_class("kd")().needs(("a", "b"), ()) == {
        "a": frozenset({SPEC}),
        "b": frozenset({SPEC}),
    }
    assert config_class("ce")().needs(("a", "b"), ()) == {}


@pytest.mark.parametrize("name", ["ce", "kd"])
def test_the_student_itself_is_the_inference_model(name: str) -> None:
    student = nn.Linear(2, 2)
    method = build(config_class(name)())
    assert method.inference_model(student) is student
    assert not list(method.parts.parameters())
    assert config_class(name)().name == name


def test_the_folder_is_the_registry() -> None:
    folder = Path(__file__).parents[1] / "distill" / "methods"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    assert set(method_names()) == files
    assert all(issubclass(config_class(name), MethodConfig) for name in method_names())


def test_an_unknown_method_is_answered_with_near_misses() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'kdd'; did you mean 'kd'.*methods: .*ce"):
        config_class("kdd")
