"""What is found wrong with an experiment before Ray starts: files, shapes, taps, resources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from distill.config import Experiment
from distill.loading import ConfigError, load_experiment, shipped_experiments, validate
from distill.methods import Method, MethodConfig
from distill.methods.base import Needs
from distill.signals import SignalShapes, SignalSpec
from orchestrator.preflight import check, check_data, signal_codec
from tests.data_files import write_arrays


class Hint(MethodConfig):
    """Asks every teacher for one signal, and for as many teachers as it says."""

    signal: str
    at_least: int = 0

    def needs(self, teachers: Sequence[str], student_taps: Sequence[str]) -> Needs:  # noqa: ARG002
        if len(teachers) < self.at_least:
            raise ValueError(f"needs {self.at_least} teachers, there are {len(teachers)}")
        return {teacher: frozenset({SignalSpec.parse(self.signal)}) for teacher in teachers}

    def build(self, shapes: SignalShapes) -> Method:
        raise AssertionError(f"built before it was checked: {shapes}")


def experiment(file: Path, /, **changes: Any) -> Experiment:
    """Grey 6×6 images of 4 classes: 36 to train on, 4 held out, 8 to test."""
    plain = {
        "name": "small",
        "data": {"name": "arrays", "file": str(file)},
        "teachers": [{"arch": "cnn_m"}, {"arch": "resnet8"}],
        "student": {"arch": "cnn_xs"},
        "method": "kd",
        "schedule": {"batch_size": 16},
    }
    return validate(plain | changes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_arrays(tmp_path / "data.npz")


def mistakes(wrong: Experiment, **machine: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(wrong, **({"num_cpus": 2, "with_gpu": False} | machine))
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", shipped_experiments())
def test_a_shipped_experiment_passes_on_two_cpus(name: str) -> None:
    check(load_experiment(name), num_cpus=2, with_gpu=False)


def test_preflight_says_what_the_data_are_like(data: Path) -> None:
    info = check(experiment(data), num_cpus=2)
    assert (info.num_classes, info.in_channels, info.image_size) == (4, 1, 6)
    assert len(check_data(experiment(data, teachers=[], method="ce")).train) == 36


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"data": {"name": "arrays", "file": "/nowhere/d.npz"}},
            "data.file: no file '/nowhere/d.npz'; correct the path",
        ),
        (
            {"teachers": [{"arch": "cnn_m", "checkpoint": "/nowhere/t.pt"}]},
            "teachers[0].checkpoint: no file '/nowhere/t.pt'; correct the path, or train the "
            "teacher with checkpoint: auto",
        ),
        (
            {"teachers": [{"arch": "cnn_m", "checkpoint": "embedded/cnm_m"}]},
            "teachers[0].checkpoint: no embedded weights 'embedded/cnm_m'; ",
        ),
        (
            {"teachers": [{"arch": "cnn_m"}, {"arch": "resnet8", "options": {"norm": "none"}}]},
            "teachers[1].options: 'resnet8' takes no option 'norm'; drop it",
        ),
        (
            {"student": {"arch": "cnn_xs", "options": {"nrom": "none"}}},
            "student.options: 'cnn_xs' takes no option 'nrom'; did you mean 'norm'?",
        ),
        (
            {"student": {"arch": "no_such_package.nets:wide"}},
            "student.arch: 'no_such_package.nets:wide': there is no module 'no_such_package'; "
            "install it or put its folder on PYTHONPATH",
        ),
        ({"teachers": []}, "method: 'kd' needs a teacher; add one to teachers"),
        (
            {"method": "ce", "baselines": ["ce", "kd"], "teachers": []},
            "baselines[1]: 'kd' needs a teacher; add one to teachers",
        ),
        (
            {"signals": {"codec": "flaot16"}},
            "signals.codec: unknown codec 'flaot16'; codecs: float32, float16, int8, topK-drop",
        ),
        (
            {"signals": {"codecs": {"logits": "top9"}}},
            "signals.codecs.logits: codec top9-residual: keeps 9 of a vector of more than 9",
        ),
        (
            {"signals": {"codecs": {"stage3@poll4": "int8"}}},
            "signals.codecs.stage3@poll4: 'stage3@poll4' is not a signal; write TAP or TAP@RED",
        ),
        (
            {"signals": {"codecs": {"stge3": "int8"}}},
            "signals.codecs.stge3: no teacher has tap 'stge3'; did you mean 'stage3'",
        ),
        (
            {"workers": {"count": 3}},
            "workers.count: 3 workers of 1 CPUs need 3, this machine has 2; set workers.count to "
            "2 or less, or RAY_ADDRESS to a cluster's address",
        ),
        (
            {"workers": {"count": 2, "cpus": 1.5}},
            "workers.count: 2 workers of 1.5 CPUs need 3, this machine has 2; set workers.count "
            "to 1 or less",
        ),
        (
            {"workers": {"cpus": 2.5}},
            "workers.cpus: a worker of 2.5 CPUs does not fit on this machine, which has 2; set it "
            "to 2 or less",
        ),
        (
            {"teachers": [{"arch": "cnn_m", "cpus": 3}]},
            "teachers[0].cpus: an actor of 3 CPUs does not fit on this machine, which has 2",
        ),
        ({"workers": {"gpus": 1}}, "workers.gpus: 1 asked for, and this machine has no GPU; set"),
        (
            {"teachers": [{"arch": "cnn_m", "gpus": 0.5}]},
            "teachers[0].gpus: 0.5 asked for, and this machine has no GPU; set it to 0",
        ),
        (
            {"views": {"kind": "crop_flip", "padding": 6}},
            "views.padding: 6 for images of 6 pixels leaves views with nothing of the image; set "
            "it to 5 or less",
        ),
        (
            {"schedule": {"batch_size": 1}, "workers": {"count": 2}},
            "workers.count: 2 workers cannot share a batch of 1; set workers.count lower, or",
        ),
    ],
)
def test_a_mistake_names_field_value_and_fix(
    changes: dict[str, Any], says: str, data: Path
) -> None:
    (line,) = mistakes(experiment(data, **changes))
    assert line.startswith(says)


def test_every_mistake_is_told_at_once(data: Path) -> None:
    wrong = experiment(
        data,
        teachers=[{"arch": "cnn_m", "checkpoint": "/no.pt", "cpus": 9}],
        workers={"count": 9},
        signals={"codec": "zip"},
    )
    fields = {line.partition(":")[0] for line in mistakes(wrong)}
    expected = {"teachers[0].checkpoint", "teachers[0].cpus", "workers.count", "signals.codec"}
    assert fields == expected


def test_a_cluster_and_a_gpu_lift_what_one_machine_bounds(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(experiment(data, workers={"gpus": 1}), num_cpus=2, with_gpu=True)
    check(experiment(data, workers={"count": 0, "cpus": 9}), num_cpus=2)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check(experiment(data, workers={"count": 9, "gpus": 1}), num_cpus=2, with_gpu=False)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize(("arch", "classifier"), [("cnn_m", "fc"), ("vgg8", "classifier")])
def test_a_teacher_of_another_class_count_is_refused(
    suffix: str, arch: str, classifier: str, data: Path, tmp_path: Path
) -> None:
    def teacher(num_classes: int) -> Experiment:
        path = tmp_path / f"t{num_classes}.{suffix}"
        weight = np.zeros((num_classes, 8), np.float32)
        if suffix == "pt":
            torch.save({"model": {f"{classifier}.weight": torch.from_numpy(weight)}}, path)
        else:
            save_file({f"{classifier}.weight": weight}, path)
        return experiment(data, teachers=[{"arch": arch, "checkpoint": str(path)}])

    check(teacher(4), num_cpus=2)
    (line,) = mistakes(teacher(7))
    assert line.startswith(
        f"teachers[0].checkpoint: '{tmp_path}/t7.{suffix}' has 7 classes, the data has 4; say "
    )


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "replaced by text"])
def test_a_damaged_checkpoint_is_refused(
    suffix: str, damage: str, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"t.{suffix}"
    if suffix == "pt":
        torch.save({"fc.weight": torch.zeros(4, 500)}, path)
    else:
        save_file({"fc.weight": np.zeros((4, 500), np.float32)}, path)
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "emptied": b"", "replaced by text": b"<html>"}
    path.write_bytes(damaged[damage])
    (line,) = mistakes(experiment(data, teachers=[{"arch": "cnn_m", "checkpoint": str(path)}]))
    assert line.startswith("teachers[0].checkpoint: ")
    assert f"'{path}' is" in line
    assert ("cut short" if damage == "cut" else "is not a checkpoint") in line


def test_a_tap_that_a_teacher_does_not_have_is_refused(data: Path) -> None:
    both = experiment(data, teachers=[{"arch": "vgg8"}, {"arch": "cnn_m"}])
    check(both.model_copy(update={"method": Hint(signal="stage3@gap")}), num_cpus=2)
    (line,) = mistakes(both.model_copy(update={"method": Hint(signal="stage4@gap")}))
    assert "method: " in line
    assert "needs tap 'stage4', which teacher 'cnn_m' (cnn_m) does not have; did you mean" in line
    assert "'stage3'" in line


def test_taps_of_networks_that_only_torch_knows_are_left_to_it(data: Path) -> None:
    foreign = experiment(
        data,
        teachers=[{"arch": "torchvision/resnet18"}],
        signals={"codecs": {"layer4": "int8"}},
    )
    check(foreign.model_copy(update={"method": Hint(signal="layer4")}), num_cpus=2)


def test_a_methods_own_refusal_names_the_field(data: Path) -> None:
    wrong = experiment(data, teachers=[{"arch": "cnn_m"}])
    (line,) = mistakes(wrong.model_copy(update={"baselines": (Hint(signal="logits", at_least=3),)}))
    assert line.startswith("baselines[0]: ")
    assert line.endswith("needs 3 teachers, there are 1")


@pytest.mark.parametrize(("means", "stds"), [(3, 3), (1, 3), (3, 1)])
def test_a_normalisation_of_other_channels_is_refused(means: int, stds: int, data: Path) -> None:
    def wanted(means: int, stds: int) -> Experiment:
        normalization = {"mean": [0.5] * means, "std": [0.2] * stds}
        return experiment(data, teachers=[{"arch": "cnn_m", "normalization": normalization}])

    check(wanted(1, 1), num_cpus=2)
    (line,) = mistakes(wanted(means, stds))
    assert line == (
        f"teachers[0].normalization: {means} means and {stds} stds for images of 1 channels; give "
        "one of each a channel"
    )


def test_a_batch_larger_than_the_training_data_is_refused(data: Path) -> None:
    def wanted(student: int, teacher: int) -> Experiment:
        auto = {"arch": "cnn_m", "training": {"schedule": {"batch_size": teacher}}}
        trained = {"arch": "resnet8", "checkpoint": "t.pt"}  # its batch size is not used
        return experiment(data, schedule={"batch_size": student}, teachers=[trained, auto])

    check_data(wanted(36, 36))
    with pytest.raises(ConfigError) as caught:
        check_data(wanted(37, 40))
    assert str(caught.value).splitlines() == [
        "schedule.batch_size: 37 is more than the 36 training samples; set it lower",
        "teachers[1].training.schedule.batch_size: 40 is more than the 36 training samples; set "
        "it lower",
    ]


def test_data_that_turn_out_damaged_are_the_users_mistake(data: Path) -> None:
    content = bytearray(data.read_bytes())
    content[200:400] = bytes(200)
    data.write_bytes(content)
    with pytest.raises(ConfigError, match=r"data\.npz"):
        check_data(experiment(data))


def test_a_signals_codec_is_its_own_or_its_taps_or_the_default(data: Path) -> None:
    codecs = {"stage3@gap": "float32", "stage3": "int8"}
    wanted = experiment(data, signals={"codec": "float16", "codecs": codecs})
    chosen = [signal_codec(wanted, SignalSpec.parse(t)) for t in ("stage3@gap", "stage3", "logits")]
    assert chosen == ["float32", "int8", "float16"]
