"""Teachers whose classes are not the data's: which outputs count, what is said of a mismatch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.class_maps import ClassMap, class_map
from distill.config import Experiment, Teacher
from distill.datasets import load_data
from distill.loading import ConfigError
from distill.models import build_model
from distill.models.checkpoints import load_weights, save_weights
from orchestrator.planning import agenda
from orchestrator.preflight import check
from orchestrator.teacher_networks import check_networks
from orchestrator.teachers import Teacher as Answering
from orchestrator.teachers import input_plan
from tests.helpers import prepare, tiny, write_teacher

NAMES = ("ant", "bee", "cat")
SUBSET = [7, 2, 4]  # of Fashion-MNIST's ten


def teacher(**fields: Any) -> Teacher:
    return Teacher.model_validate({"arch": "cnn_xs", "checkpoint": "x.pt"} | fields)


@pytest.mark.parametrize(
    ("fields", "own", "found"),
    [
        ({}, None, ClassMap(None, 3)),
        ({"outputs": [5, 0, 2]}, None, ClassMap((5, 0, 2), None)),
        ({"outputs": [5, 0, 2]}, "abcdef", ClassMap((5, 0, 2), 6)),
        ({"outputs": [0, 1, 2]}, None, ClassMap((0, 1, 2), None)),  # of four, or of three?
        ({"outputs": [0, 1, 2]}, "abc", ClassMap(None, 3)),
        ({"classes": ["cat", "dog", "ant", "bee"]}, None, ClassMap((2, 3, 0), 4)),
        ({"classes": NAMES}, None, ClassMap(None, 3)),
        ({}, ("bee", "ant", "cat"), ClassMap((1, 0, 2), 3)),
        ({}, ("one", "two", "three"), ClassMap(None, 3)),  # other words for the same
        ({"classes": ["bee", "cat", "ant"]}, ("x", "y", "z"), ClassMap((2, 0, 1), 3)),
    ],
)
def test_every_class_of_the_data_has_its_output(
    fields: dict[str, Any], own: Sequence[str] | None, found: ClassMap
) -> None:
    assert class_map(teacher(**fields), NAMES, own) == found


@pytest.mark.parametrize(
    ("fields", "own", "says"),
    [
        ({"outputs": [0, 1]}, None, "outputs: 2 outputs for the 3 classes of the data ('ant', 'be"),
        ({"outputs": [0, 1, 9]}, "abc", "outputs: there is no output 9; the teacher has 3, 0..2"),
        (
            {"classes": ["ant", "bee", "cot", "dog"]},
            None,
            "classes: the teacher has 4 classes and the experiment's data 3, and none of its is "
            "called 'cat', as one of the data's is; did you mean ",
        ),
        ({"classes": ["x", "y"]}, None, "classes: the teacher has 2 classes and the experiment's "),
        ({"classes": ["ant", "bee", "cat"]}, "ab", "classes: 3 names, and training.data has 2 cl"),
        (
            {"training": {"data": {"name": "cifar10"}}},
            ("ant", "bee", "dog"),
            "training.data: 'cifar10' has 3 classes and the experiment's data 3, and none of its "
            "is called 'cat', as one of the data's is; say by outputs which of its classes",
        ),
    ],
)
def test_a_mismatch_names_the_field_both_counts_and_the_fix(
    fields: dict[str, Any], own: Sequence[str] | None, says: str
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        class_map(teacher(**fields), NAMES, own)
    assert str(caught.value).startswith(says)


@pytest.fixture(scope="module")
def trained(fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of all ten classes."""
    file = tmp_path_factory.mktemp("trained") / "t.safetensors"
    return write_teacher(file, tiny(fashion), "cnn_xs", seed=0)


def taught(fashion: Path, trained: Path, /, **fields: Any) -> Experiment:
    """Three of the ten classes, and a teacher that may know more."""
    known = {"arch": "cnn_xs", "checkpoint": str(trained)} | fields
    changes = {"data.classes": SUBSET, "teachers": [known], "method": "kd"}
    return tiny(fashion, changes)


def answers(experiment: Experiment) -> np.ndarray:
    (prepared,) = prepare(experiment)
    teacher = Answering(prepared.serving.recipe, input_plan(experiment))
    (signal,) = prepared.serving.recording.signals
    assert signal.shape == (experiment_classes(experiment),)
    return teacher.pass_signals(np.arange(8), 0, (signal.spec,))[signal.spec]


def experiment_classes(experiment: Experiment) -> int:
    return load_data(experiment.data).num_classes


def test_a_teacher_of_more_classes_answers_for_the_datas_alone(
    fashion: Path, trained: Path
) -> None:
    outputs = {"outputs": SUBSET}
    names = {"classes": [str(i) for i in range(10)]}
    some = answers(taught(fashion, trained, **outputs))
    np.testing.assert_array_equal(answers(taught(fashion, trained, **names)), some)
    other = answers(taught(fashion, trained, outputs=[2, 7, 4]))
    np.testing.assert_array_equal(other, some[:, [1, 0, 2]])

    job = taught(fashion, trained, **outputs)
    data = load_data(job.data)
    whole = build_model("cnn_xs", num_classes=10, in_channels=1, image_size=14)
    load_weights(whole, trained)
    (prepared,) = prepare(job)
    mean, std = prepared.serving.recipe.mean, prepared.serving.recipe.std
    images = Answering(prepared.serving.recipe, input_plan(job)).images(
        np.arange(8), np.zeros(8, int)
    )
    normalised = (torch.from_numpy(images) / 255 - mean[0]) / std[0]
    with torch.no_grad():
        logits = whole.eval()(normalised).logits[:, SUBSET]
        cut = prepared.serving.recipe.build()(torch.from_numpy(images)).logits
    torch.testing.assert_close(cut, logits)
    assert data.class_names == ("7", "2", "4")


def test_the_classes_are_part_of_a_records_key(fashion: Path, trained: Path) -> None:
    keys = {
        prepare(taught(fashion, trained, **fields))[0].serving.recording.key
        for fields in (
            {"outputs": SUBSET},
            {"outputs": [7, 4, 2]},
            {"classes": [str(i) for i in range(10)]},
        )
    }
    assert len(keys) == 2  # the last says the same as the first


def test_a_classifier_that_students_share_is_cut_alike(fashion: Path, trained: Path) -> None:
    job = taught(fashion, trained, outputs=SUBSET)
    shared = job.model_copy(update={"method": tiny(fashion, {"method": "simkd"}).method})
    (prepared,) = prepare(shared)
    assert prepared.classifier is not None
    whole = build_model("cnn_xs", num_classes=10, in_channels=1, image_size=14)
    load_weights(whole, trained)
    rows = whole.classifier.weight.detach().numpy()[SUBSET]
    np.testing.assert_array_equal(prepared.classifier.weight, rows)
    resident = prepared.serving.recipe.build().network.classifier
    assert (resident.out_features, tuple(resident.weight.shape)) == (3, rows.shape)


def test_a_teacher_trained_on_all_classes_is_mapped_by_name(fashion: Path, trained: Path) -> None:
    own = {"training": {"data": {"name": "arrays", "file": str(fashion)}}}
    assert [*answers(taught(fashion, trained, **own)).shape] == [8, 3]
    job = taught(fashion, trained, **own, checkpoint="auto")
    (prepared,) = agenda(job).teachers  # with drawn weights, as for ten classes
    assert prepared.serving.recipe.num_classes == 3


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "teachers[0].checkpoint: '{}' has 10 classes, the data has 3; say which 3 of its out"),
        ({"outputs": [7, 2, 10]}, "teachers[0].outputs: there is no output 10; the teacher has 10"),
        ({"outputs": [7, 2]}, "teachers[0].outputs: 2 outputs for the 3 classes of the data ('7'"),
        ({"classes": list("72456")}, "teachers[0].classes: 5 names, and '{}' has 10 outputs; name"),
        ({"classes": list("1234567")}, "teachers[0].classes: 7 names, and "),
        ({"classes": list("123")}, "teachers[0].classes: the teacher has 3 classes and the exper"),
    ],
)
def test_preflight_tells_of_classes_that_do_not_fit(
    fields: dict[str, Any], says: str, fashion: Path, trained: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        check(taught(fashion, trained, **fields))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(says.format(trained))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"outputs": SUBSET, "classes": ["a"]}, r"teachers\[0\].outputs: 'classes' says the same"),
        ({"outputs": [1, 1, 2]}, r"teachers\[0\].outputs: 1 is given twice"),
        ({"outputs": [-1, 1, 2]}, r"teachers\[0\].outputs\[0\]: "),
        (
            {"outputs": SUBSET, "checkpoint": "auto"},
            r"teachers\[0\].outputs: checkpoint: auto trai",
        ),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(
    fields: dict[str, Any], says: str, fashion: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        taught(fashion, Path("x.pt"), **fields)


def own_network(*, num_classes: int, in_channels: int, image_size: int, kind: str) -> nn.Module:
    pixels = in_channels * image_size**2
    last = nn.Linear(8, num_classes)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(pixels, 8), last]
    if kind == "scaled":
        layers.append(nn.LayerNorm(num_classes))
    if kind == "softmax":  # over ten classes, or over three
        layers.append(nn.LogSoftmax(1))
    if kind == "two sizes":
        layers[1] = nn.Sequential(nn.Linear(pixels, num_classes + 9), nn.Linear(num_classes + 9, 8))
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("plain", ""),
        ("scaled", "its classes cannot be cut from its last layer"),
        ("softmax", "its classes cannot be cut: its logits are not those of its last linear layer"),
        ("two sizes", "is another network for 3 classes than for 10 with its last layer cut"),
    ],
)
def test_a_users_network_is_cut_where_its_last_layer_alone_gives_the_classes(
    kind: str, says: str, fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("own_networks")
    module.network = own_network  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "own_networks", module)
    torch.manual_seed(0)
    network = own_network(num_classes=10, in_channels=1, image_size=14, kind=kind)
    file = tmp_path / "own.safetensors"
    save_weights(network, file)
    own = {"arch": "own_networks:network", "options": {"kind": kind}}
    job = taught(fashion, file, **own, outputs=SUBSET)
    if not says:
        assert answers(job).shape == (8, 3)
        says = r"there is no output 12; the teacher has 10, 0..9"
        job = taught(fashion, file, **own, outputs=[7, 2, 12])
    check(job)  # knows nothing of it without torch
    with pytest.raises(ConfigError, match=rf"teacher 'own_networks.network': .*{says}"):
        check_networks(job, load_data(job.data))


def test_networks_are_built_before_any_teacher_is_trained(fashion: Path) -> None:
    for who, changes in (
        ("student", {"student.arch": "torchvision/resnet19"}),
        (r"teacher 'resnet19'", {"teachers": [{"arch": "torchvision/resnet19"}]}),
    ):
        job = tiny(fashion, {"method": "ce"} | changes)
        with pytest.raises(ConfigError, match=rf"{who}: torchvision has no classifier 'resnet19'"):
            check_networks(job, load_data(job.data))
