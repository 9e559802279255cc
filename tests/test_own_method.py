"""A user's own method: the tutorial's file, held against what every shipped method is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import tests.test_method_properties as properties
from distill.blueprint import MODEL_FILE, Blueprint
from distill.config import as_method
from distill.datasets import load_data
from distill.loading import ConfigError, load_experiment
from distill.methods import config_class, method_names
from orchestrator.jobs import student_jobs
from orchestrator.runs import RunFolder
from orchestrator.students import TeacherFacts, train_students
from tests.helpers import prepare, two_teachers
from tests.method_bench import Bench, configured
from tests.test_method_training import Stepper

TUTORIALS = Path(__file__).resolve().parent.parent / "docs" / "tutorials"
NAME = "logit_mse"


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(TUTORIALS)
    yield
    sys.modules.pop(NAME, None)


def test_a_users_method_is_called_by_its_module() -> None:
    assert NAME not in method_names()
    config = as_method({"name": NAME, "mse_weight": 3})
    assert config.name == NAME
    assert load_experiment("demo", [f"method={NAME}", "method.mse_weight=3"]).method == config


@pytest.mark.parametrize(
    "check",
    [
        properties.test_a_configuration_survives_being_written_and_read,
        properties.test_the_order_of_teachers_does_not_matter,
        properties.test_gradients_are_right,
        properties.test_state_is_whole,
        lambda name: properties.test_a_batch_is_the_mean_of_its_samples(name, {}),
    ],
)
def test_what_holds_for_every_method_holds_for_a_users(check) -> None:
    check(NAME)


@pytest.mark.parametrize("setting", ["ce_weight", "mse_weight"])
def test_its_every_setting_changes_the_outcome(setting: str) -> None:
    before = properties.outcome(configured(NAME))
    after = properties.outcome(configured(NAME, **{setting: 0.5}))
    assert not torch.allclose(before, after, rtol=1e-6)


def test_its_loss_is_what_its_docstring_says() -> None:
    bench = Bench.standard(["a", "c"])
    report = bench.loss(configured(NAME, mse_weight=2))
    distances = [
        F.mse_loss(bench.student.logits, teacher.logits) for teacher in bench.teachers.values()
    ]
    torch.testing.assert_close(report.terms["mse"], sum(distances))


def test_a_step_by_it_moves_the_student_to_its_teachers() -> None:
    stepper = Stepper.of(NAME, ce_weight=0)
    target = torch.stack([teacher.logits for teacher in stepper.bench.teachers.values()])

    def distance() -> float:
        with torch.no_grad():
            output = stepper.learner.student(stepper.batch.images)
        return float((output.logits - target).square().mean())

    before = distance()
    stepper.step(configured(NAME, ce_weight=0))
    assert distance() < before


def test_a_run_by_it_is_filed_under_its_name(fashion: Path, tmp_path: Path) -> None:
    changes = {"method": NAME, "signals.source": "local", "schedule.epochs": 1}
    experiment = two_teachers(fashion, tmp_path, changes)
    data = load_data(experiment.data)
    (job,) = student_jobs(
        experiment, prepare(experiment), data, facts_of=lambda *_: TeacherFacts(0.5, 1)
    )
    train_students([job], experiment.workers, storage=tmp_path, on_event=lambda _: None)
    run = RunFolder(job.folder)
    assert run.finished
    assert run.identity["method"] == NAME
    assert load_experiment(str(run.path / "config.yaml")).method == experiment.method
    assert Blueprint.read(run.path / MODEL_FILE).method == experiment.method


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("logit_mes", r"unknown method 'logit_mes'.* or the name of a module of your own, whose"),
        ("mine.logit_mse", r"'mine.logit_mse': there is no module 'mine'; .*PYTHONPATH"),
        ("no method", r"unknown method 'no method'"),
        ("json", r"method 'json': its module has no Config that is a distill.methods.MethodConfig"),
        ("broken_method", r"'broken_method' cannot be imported: ZeroDivisionError"),
        ("{name: logit_mse, weight: 1}", r"method.weight: unknown key; .*'mse_weight'"),
        ("{name: logit_mse, mse_weight: -1}", r"method.mse_weight: .*greater than or equal to 0"),
    ],
)
def test_a_mistake_with_ones_own_method_is_explained(
    method: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_method.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=says):
        load_experiment("demo", [f"method={method}"])


def test_a_shipped_method_is_never_taken_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kd.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    assert config_class("kd").__module__ == "distill.methods.kd"
