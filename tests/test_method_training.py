"""Methods in training: steps, frozen gates, shared classifiers, schedules, whole runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.config import SGD
from distill.datasets import load_data
from distill.learners import LEARNERS, Compute, Learner
from distill.loading import ConfigError
from distill.methods import Method, config_class
from distill.models import build_model
from distill.models.base import Normalized
from distill.parallel import Workers
from distill.signals import Batch, Progress, SignalSpec
from orchestrator.jobs import student_jobs
from orchestrator.preparation import file_accuracy
from orchestrator.runs import RunFolder
from orchestrator.sources import LocalSource
from orchestrator.students import train_students
from orchestrator.teachers import Teacher, input_plan
from tests.helpers import prepare, two_teachers
from tests.method_bench import NAMES, B, Bench, C, configured

ADAPTED = ["amtml", "camkd", "fitnet", "gpac", "simkd"]  # with parts that train
CLASSES = torch.arange(B) % C


@dataclass
class Stepper:
    """A real student and real, unlike teachers on 8×8 images, and a learner to take steps."""

    bench: Bench
    method: Method
    learner: Learner
    batch: Batch

    @classmethod
    def of(cls, name: str, *, seed: int = 0, **settings: Any) -> Stepper:
        torch.manual_seed(seed)
        images = torch.randint(0, 256, (B, 1, 8, 8), dtype=torch.uint8)
        networks = {arch: network(arch).eval() for arch in ("cnn_s", "resnet8", "vgg8")}
        student = network("cnn_xs")
        with torch.no_grad():
            outputs = {arch: model(images) for arch, model in networks.items()}
            bench = Bench(student.eval()(images), outputs, CLASSES, heads_of(networks))
        config = configured(name, **settings)
        method = config.build(bench.shapes(config))
        compute = Compute(torch.device("cpu"))
        learner = LEARNERS["standard"](student.train(), method, optimizer=SGD(), compute=compute)
        rows = np.arange(B)
        return cls(bench, method, learner, Batch(rows, rows, 0, images, CLASSES, B))

    def step(self, config: Any, *, epoch: int = 0) -> None:
        progress = Progress(epoch, 0, 100, 1)
        self.learner.step(self.batch, self.bench.signals(config), progress=progress, lr=0.05)

    def state(self) -> dict[str, Tensor]:
        student = self.learner.student.named_parameters()
        parts = self.method.parts.named_parameters()
        found = [("student." + n, p) for n, p in student] + [("parts." + n, p) for n, p in parts]
        return {name: value.detach().clone() for name, value in found}


def network(arch: str) -> Normalized:
    built = build_model(arch, num_classes=C, in_channels=1, image_size=8)
    return Normalized(built, mean=[0.5], std=[0.5])


def heads_of(networks: dict[str, Normalized]) -> dict[str, tuple[Tensor, Tensor | None]]:
    heads = {arch: model.network.classifier for arch, model in networks.items()}
    return {arch: (head.weight.clone(), head.bias.clone()) for arch, head in heads.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_trains_student_and_adapters_and_no_teacher(name: str) -> None:
    settings = {"corrector": "scale"} if name == "gpac" else {}
    stepper, config = Stepper.of(name, **settings), configured(name, **settings)
    before = stepper.state()
    stepper.step(config)
    still = {key for key, value in stepper.state().items() if torch.equal(value, before[key])}
    adapters = [key for key in before if key.startswith("parts.") and "classifiers" not in key]
    assert bool(adapters) == (name in ADAPTED)
    classifiers = {key for key in before if "classifiers" in key}
    own_head = {f"student.network.fc.{part}" for part in ("weight", "bias")}
    assert still == classifiers | (own_head if name == "simkd" else set())


def test_the_gate_of_amtml_is_frozen_after_its_epochs_and_still_weighs_samples() -> None:
    stepper, config = Stepper.of("amtml", gate_epochs=2), configured("amtml", gate_epochs=2)
    stepper.step(config, epoch=1)  # fills the momentum that must not move the gate later
    before = stepper.state()
    stepper.step(config, epoch=2)
    still = {key for key, value in stepper.state().items() if torch.equal(value, before[key])}
    assert still == {"parts.gate.theta", "parts.gate.w"}
    report = stepper.bench.loss(config, stepper.method, progress=Progress(2, 0, 100, 1))
    assert all(weights.std() > 0 for weights in report.weights["teacher_weight"].values())


def test_frozen_parameters_get_no_gradient_from_other_workers() -> None:
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    Workers(0, 2).average_gradients([frozen])
    assert frozen.grad is None


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("amtml", {"teacher_weight"}),
        ("ebkd", {"teacher_weight"}),
        ("aekd", {"teacher_weight"}),
        ("camkd", {"teacher_weight", "feature_weight"}),
    ],
)
def test_weights_are_shares_of_one_sum(name: str, kinds: set[str]) -> None:
    report = Bench.standard().loss(configured(name))
    assert report.weights.keys() == kinds
    for weights in report.weights.values():
        assert list(weights) == ["a", "b.1", "c"]
        weights_TB = torch.stack(list(weights.values()))
        assert 0 <= weights_TB.min() <= weights_TB.max() <= 1
        total = 2.0 if name == "ebkd" else 1.0  # Kwon et al.'s 1 − H_k/ΣH
        torch.testing.assert_close(weights_TB.sum(0), torch.full((B,), total).double())


def test_simkd_answers_with_the_mean_probabilities_of_the_teachers_classifiers() -> None:
    stepper = Stepper.of("simkd")
    model = stepper.learner.inference_model().eval()
    images = stepper.batch.images
    with torch.no_grad():
        output = model(images)
        features = stepper.learner.student(images).features["stage3"]
        projected = stepper.method.heads.project(features)
        answers = [
            F.softmax(F.linear(p.mean((2, 3)), *stepper.bench.classifiers[name]), dim=1)
            for name, p in zip(stepper.bench.teachers, projected, strict=True)
        ]
    torch.testing.assert_close(output.logits.exp(), torch.stack(answers).mean(0))
    added = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in stepper.learner.student.parameters()
    )
    config = configured("simkd")
    with torch.no_grad():
        labels = stepper.method.heads(stepper.bench.student.features["stage3"]).argmax(1)
    report = replace(stepper.bench, labels=labels).loss(config, stepper.method)
    assert report.scalars["shared_accuracy"] == 1
    assert added == sum(p.numel() for p in stepper.method.parts.parameters())


@pytest.mark.parametrize(("epoch", "level"), [(0, 1.0), (62, 1.0), (63, 0.5), (74, 0.5), (75, 0.1)])
def test_the_attention_of_gpac_has_three_levels(epoch: int, level: float) -> None:
    bench, config = Bench.standard(), configured("gpac")
    first, now = (
        bench.loss(config, progress=Progress(e, 0, 100, 1)).terms["attention"] for e in (0, epoch)
    )
    torch.testing.assert_close(now, level * first)


def test_gpac_logs_how_strongly_each_target_is_corrected() -> None:
    scalars = {
        corrector: Bench.standard().loss(configured("gpac", corrector=corrector)).scalars
        for corrector in ("blend", "scale", "none")
    }
    assert all(set(of) == {f"correction/{t}" for t in ("a", "b.1", "c")} for of in scalars.values())
    assert all(0 < value < 0.5 for value in scalars["blend"].values())
    assert all(value == 1 for value in scalars["scale"].values())
    assert not any(scalars["none"].values())


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("amtml", {"hint_groups": "s1-t0"}, "hint_groups: 's1-t0' is not STAGE:TEACHER"),
        ("amtml", {"hint_groups": "s9:t0"}, "hint_groups: s9: the student has 3 stages"),
        ("amtml", {"hint_groups": "s1:t3"}, "hint_groups: t3: there are 3 teachers, t0 to t2"),
        ("amtml", {"hint_groups": "s1:t0,s1:t0"}, "hint_groups: s1:t0 is given twice"),
        ("gpac", {"probes": ""}, "assignment: is empty, and so is probes"),
        ("gpac", {"probes": "/no/table"}, "probes: no file '/no/table'"),
        ("gpac", {"assignment": "x"}, "assignment: 'x' is not STAGE:TEACHER"),
        ("fitnet", {"stage": 4}, "stage: s4: the student has 3 stages, s1 to s3"),
    ],
)
def test_a_wrong_setting_names_its_field(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="^" + says.replace("(", r"\(")):
        Bench.standard().signals(configured(name, **settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"levels": (1, 2)}, "levels: 2 for 2 breakpoints"),
        ({"breakpoints": (0.9, 0.1)}, "breakpoints: .* must rise"),
        ({"levels": (1, 0.5, -1)}, "negative level"),
    ],
)
def test_a_wrong_schedule_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config_class("gpac")(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run_of_every_method(name: str, fashion: Path, tmp_path: Path) -> None:
    """Two teachers in the worker, one epoch, the test accuracy filed."""
    extra = {"method.assignment": "s1:t0,s2:t1,s3:t0"} if name == "gpac" else {}
    changes = {"method": name, "signals.source": "local", "schedule.epochs": 1} | extra
    job = job_of(two_teachers(fashion, tmp_path, changes))
    train_students([job], job.experiment.workers, storage=tmp_path, on_event=lambda _: None)
    result = RunFolder(job.folder).result()
    assert 0 <= result["test_accuracy"] <= 1
    assert math.isfinite(result["seconds"])
    assert (result["parameters_added"] > 0) == (name == "simkd")


def job_of(experiment: Any) -> Any:
    data, teachers = load_data(experiment.data), prepare(experiment)
    for teacher in teachers:
        file_accuracy(teacher, data, 0.5)
    return student_jobs(experiment, teachers, data)[0]


def test_a_teacher_whose_classifier_reads_another_map_is_refused(
    fashion: Path, tmp_path: Path
) -> None:
    changes = {
        "method": "simkd",
        "teachers[0].arch": "wrn_16_1",
        "teachers[0].taps": ["stage1", "stage3"],
    }
    with pytest.raises(
        ConfigError, match=r"teacher 'a' \(wrn_16_1\): its classifier does not read"
    ):
        prepare(two_teachers(fashion, tmp_path, changes))


def test_networks_with_a_map_after_the_last_stage_lend_their_classifiers(
    fashion: Path, tmp_path: Path
) -> None:
    arches = {"teachers[0].arch": "wrn_16_1", "teachers[1].arch": "shufflenetv2"}
    for teacher in prepare(two_teachers(fashion, tmp_path, {"method": "simkd"} | arches)):
        (spec,) = (signal.spec for signal in teacher.serving.recording.signals)
        assert spec.tap == "final"
        assert teacher.classifier is not None


def test_an_answer_that_is_not_finite_names_teacher_and_sample(
    fashion: Path, tmp_path: Path
) -> None:
    experiment = two_teachers(fashion, tmp_path)
    recipe = prepare(experiment)[1].serving.recipe
    teacher, logits = Teacher(recipe, input_plan(experiment)), SignalSpec("logits")
    with torch.no_grad():
        teacher.model.network.classifier.bias[2] = math.nan
    rows = np.array([7, 3])
    with pytest.raises(ValueError, match="teacher 'b': 'logits' of sample 7 is NaN"):
        teacher.pass_signals(rows, 0, (logits,))
    images, labels = teacher.data.train.gather(rows)
    batch = Batch(rows, rows, 0, torch.from_numpy(images), torch.from_numpy(labels), 2)
    with pytest.raises(ValueError, match="teacher 'b': 'logits' of sample 7 is NaN"):
        LocalSource({"b": (teacher, (logits,))}).signals(batch)


def test_another_order_of_samples_changes_nothing() -> None:
    bench = Bench.standard()
    for name in NAMES:
        config = configured(name)
        method = bench.build(config)
        turned = bench.rows(torch.arange(B).flip(0))
        torch.testing.assert_close(
            turned.loss(config, method).total, bench.loss(config, method).total
        )
