"""Experiments: what YAML and overrides become, and what is said about each mistake in them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config import Experiment
from distill.loading import ConfigError, apply_override, load_experiment, shipped_experiments

TEXT = """
name: small
data: {name: fashion_mnist_mini}
views: {kind: crop_flip, padding: 2}
teachers:
  - arch: cnn_m
    training: &training
      optimizer: {lr: 0.1, nesterov: true}
      schedule: {epochs: 3}
  - {name: second, arch: resnet8, training: *training}
student: {arch: cnn_xs}
method: kd
baselines: [ce, {name: kd, temperature: 1}]
optimizer: {lr: 0.05}
schedule: {epochs: 2}
seeds: [0, 1]
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return str(path)


def lines(source: str, *overrides: str) -> list[str]:
    """What is said about the mistakes in an experiment."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(source, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", shipped_experiments())
def test_a_shipped_experiment_bears_its_files_name_or_the_one_it_extends(name: str) -> None:
    own = load_experiment(name).name
    assert name == own or name.startswith(f"{own}_")


@pytest.mark.parametrize("name", shipped_experiments())
def test_an_experiment_survives_yaml(name: str, tmp_path: Path) -> None:
    experiment = load_experiment(name, ["optimizer={name: adamw}", "views={kind: identity}"])
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(experiment.as_dict()))
    assert load_experiment(str(path)) == experiment
    assert Experiment.model_validate(experiment.as_dict()) == experiment


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("schedule.epochs=7", ("schedule", "epochs"), 7),
        ("optimizer.lr=1e-3", ("optimizer", "lr"), 0.001),
        ("optimizer.nesterov=yes", ("optimizer", "nesterov"), True),
        ("optimizer={name: adamw, betas: [0.5, 0.6]}", ("optimizer", "betas"), [0.5, 0.6]),
        ("teachers[1].cpus=0.5", ("teachers", 1, "cpus"), 0.5),
        ("teachers.1.cpus=0.5", ("teachers", 1, "cpus"), 0.5),
        ("seeds=[4, 5]", ("seeds",), [4, 5]),
        ("seeds[1]=9", ("seeds",), [0, 9]),
        ("method=ce", ("method", "name"), "ce"),
        ("method.temperature=2", ("method", "temperature"), 2.0),
        ("method.temperature=2", ("method", "name"), "kd"),
        ("baselines[1].temperature=3", ("baselines", 1, "temperature"), 3.0),
        ("baselines[0].name=kd", ("baselines", 0, "name"), "kd"),
        ("workers.cpus=2", ("workers", "cpus"), 2.0),  # a group that the file leaves out
        ("teachers[0].checkpoint=a=b.pt", ("teachers", 0, "checkpoint"), "a=b.pt"),
        ("signals.codecs.stage3@pool4=int8", ("signals", "codecs", "stage3@pool4"), "int8"),
    ],
)
def test_an_override_sets_its_field(
    source: str, override: str, path: tuple[str | int, ...], value: object
) -> None:
    node: Any = load_experiment(source, [override]).as_dict()
    for key in path:
        node = node[key]
    assert node == value


def test_overrides_apply_in_order_and_change_one_field_alone(source: str) -> None:
    plain = load_experiment(source).as_dict()
    changed = load_experiment(source, ["schedule.epochs=9", "schedule.epochs=5"]).as_dict()
    assert changed["schedule"].pop("epochs") == 5
    del plain["schedule"]["epochs"]
    assert changed == plain


def test_an_override_of_what_an_alias_shares_leaves_the_others_alone(source: str) -> None:
    experiment = load_experiment(source, ["teachers[0].training.optimizer.lr=0.9"])
    assert [teacher.training.optimizer.lr for teacher in experiment.teachers] == [0.9, 0.1]


def test_nested_values_of_the_caller_stay_as_they_are() -> None:
    raw = yaml.safe_load(TEXT)
    before = copy.deepcopy(raw)
    apply_override(dict(raw), "teachers[0].training.schedule.epochs", 8)
    apply_override(dict(raw), "seeds[0]", 8)
    assert raw == before


# Overrides and what is said about them: paths that lead nowhere, …
NOWHERE = [
    ("seeds", "'seeds' is not an override; write a.b=value, as in seeds=[0,1]"),
    ("=3", "'' is not a path to a field; write a.b=value"),
    ("schedule..epochs=3", "'schedule..epochs' is not a path to a field"),
    ("seeds[-1]=3", "'seeds[-1]' is not a path to a field"),
    ("teachers[0]cpus=1", "'teachers[0]cpus' is not a path to a field"),
    ("teachers[7].cpus=1", "teachers[7]: no such entry; the list has 2, counted from 0"),
    ("teachers.x=1", "teachers.x: no such entry; the list has 2"),
    ("schedule.epochs.x=1", "schedule.epochs.x: 'epochs' is a value and has no fields"),
    ("signals.codecs[0]=int8", "signals.codecs[0]: no list is given there; set it whole"),
    ("seeds=[1", "seeds: '[1' is not plain YAML: expected ',' or ']'"),
    ("schedule={epochs: 1, epochs: 2}", "is not plain YAML: 'epochs' is given twice (line 1)"),
    ("schedule={[a]: 1}", "is not plain YAML: found unhashable key (line 1)"),
]
# … keys that are not there, which name their near misses, …
UNKNOWN_KEYS = [
    ("shedule.epochs=3", "shedule: unknown key; did you mean 'schedule'?"),
    ("schedule.epoch=3", "schedule.epoch: unknown key; did you mean 'epochs'?"),
    ("schedule.step=3", "schedule.step: unknown key; known: epochs, batch_size, kind"),
    ("data.nmae=x", "data.nmae: unknown key; did you mean 'name'?"),
    ("views.pading=2", "views.pading: unknown key; did you mean 'padding'? known: kind, "),
    ("student.ach=x", "student.ach: unknown key; did you mean 'arch'?"),
    ("teachers[1].chekpoint=x", "teachers[1].chekpoint: unknown key; did you mean 'checkpoint"),
    (
        "teachers[0].training.optimizer.lrr=1",
        "teachers[0].training.optimizer.lrr: unknown key; did you mean 'lr'?",
    ),
    ("teachers[0].normalization={mean: [0], std: [1], men: 1}", "n.men: unknown key; did you"),
    ("method.temprature=3", "method.temprature: unknown key; did you mean 'temperature'?"),
    ("baselines[1].temprature=3", "baselines[1].temprature: unknown key; did you mean 'tempe"),
    ("optimizer.momentun=0", "optimizer.momentun: unknown key; did you mean 'momentum'?"),
    (
        "optimizer={name: adamw, nesterov: true}",
        "nesterov: unknown key; known: name, lr, betas",
    ),
    ("signals.codek=int8", "signals.codek: unknown key; did you mean 'codec' or 'codecs'?"),
    ("workers.cnt=1", "workers.cnt: unknown key; did you mean 'count'?"),
    ("output.rot=x", "output.rot: unknown key; did you mean 'root'?"),
]
# … names that are not there, …
UNKNOWN_NAMES = [
    ("data.name=cifar_10", "data.name: unknown data set 'cifar_10'; did you mean cifar10 or"),
    ("method=kdd", "method: unknown method 'kdd'; did you mean 'kd'"),
    ("baselines[0]=c", "baselines[0]: unknown method 'c'; did you mean 'ce'"),
    (
        "student.arch=resnet21",
        "student.arch: unknown architecture 'resnet21'; did you mean 're",
    ),
    (
        "teachers[1].arch=cnm",
        "teachers[1].arch: unknown architecture 'cnm'; did you mean 'cnn_",
    ),
    ("views.kind=crop_flp", "views.kind: unknown 'crop_flp'; did you mean 'crop_flip'?"),
    ("optimizer.name=adam", "optimizer.name: unknown 'adam'; did you mean 'adamw'? known: sgd"),
    (
        "schedule.kind=cosin",
        "schedule.kind: should be 'cosine', 'step' or 'constant' (it is 'c",
    ),
    ("signals.source=cache", "signals.source: should be 'cached', 'served' or 'local' (it is"),
]
# … and values that a field does not take.
WRONG_VALUES = [
    ("method.temperature=-4", "method.temperature: should be greater than 0 (it is -4)"),
    ("method.temperature=0", "method.temperature: should be greater than 0 (it is 0)"),
    ("method.temperature=.inf", "method.temperature: should be a finite number (it is inf)"),
    ("method.kd_weight=.nan", "method.kd_weight: should be a finite number (it is nan)"),
    ("baselines[1].temperature=-1", "baselines[1].temperature: should be greater than 0 (it"),
    ("optimizer.lr=.inf", "optimizer.lr: should be a finite number (it is inf)"),
    ("optimizer.momentum=1", "optimizer.momentum: should be less than 1 (it is 1)"),
    ("optimizer={name: adamw, betas: [0.9, 2]}", "optimizer.betas[1]: should be less than 1"),
    (
        "optimizer={momentum: 0, nesterov: true}",
        "optimizer.nesterov: needs a momentum above 0; set momentum, or nesterov: false",
    ),
    ("schedule.epochs=0", "schedule.epochs: should be greater than 0 (it is 0)"),
    (
        "schedule.milestones=[0.5, 90]",
        "schedule.milestones[1]: should be less than 1 (it is 90",
    ),
    ("seeds=[]", "seeds: is empty; give at least one"),
    ("seeds=[3, 3]", "seeds: [3, 3] repeats a seed; give distinct ones"),
    ("seeds=3", "seeds: should be a list, as in [a, b] (it is 3)"),
    ("seeds=[-1]", "seeds[0]: should be greater than or equal to 0 (it is -1)"),
    ("seeds=[9223372036854775808]", "seeds[0]: should be less than 9223372036854775808"),
    ("teachers[0].training.seed=-1", "teachers[0].training.seed: should be greater than or"),
    ("teachers[1].name=cnn_m", "teachers: two teachers are called 'cnn_m'; give each its own"),
    ("teachers[1].name=..", "teachers[1].name: should be of letters, digits"),
    ("teachers[1]={checkpoint: auto}", "teachers[1].arch: missing; add it"),
    ("teachers[1].actors=0", "teachers[1].actors: should be greater than 0 (it is 0)"),
    ("teachers[1].normalization={mean: [0]}", "teachers[1].normalization.std: missing; add it"),
    ("name=../up", "name: should be of letters, digits, '_', '-' and '.', with no '.' or '-'"),
    ("name=..", "(it is '..')"),
    ("signals.part_size=100", "signals.part_size: should be a multiple of 4096 (it is 100)"),
    ("workers.count=-1", "workers.count: should be greater than or equal to 0 (it is -1)"),
    ("workers.sync_batchnorm=true", "workers.sync_batchnorm: runs on GPUs alone; set gpus: 1"),
    ("data.root=/x", "data.root: 'fashion_mnist_mini' does not read it"),
    ("data={name: arrays}", "data.file: 'arrays' needs it; set data.file"),
    ("data={}", "data.name: missing; add it"),
    ("views={padding: 2}", "views.kind: missing; choose from identity, crop_flip, random_augm"),
    ("student=cnn_xs", "student: should hold fields, as in {arch: cnn_xs}; known: arch, options"),
    ("student.options=3", "student.options: should hold fields, as in {name: value} (it is 3)"),
    ("optimizer=adamw", "optimizer: should hold fields, as in {name: adamw}; known: name, lr"),
    ("teachers=null", "teachers: should be a list, as in [a, b] (it is null)"),
    ("teachers=[cnn_m]", "teachers[0]: should hold fields, as in {arch: cnn_m}; known: name, arch"),
    ("data=3", "data: should hold fields; known: name"),
    ("output.root=3", "output.root: should be a path (it is 3)"),
    ("baselines=ce", "baselines: should be a list, as in [a, b] (it is 'ce')"),
    ("method=null", "method: a method needs its name, as in {name: kd, temperature: 4}"),
    ("method=3", "method: a method needs its name"),
    ("method={temperature: 3}", "method: a method needs its name"),
]


@pytest.mark.parametrize(
    ("override", "says"), [*NOWHERE, *UNKNOWN_KEYS, *UNKNOWN_NAMES, *WRONG_VALUES]
)
def test_a_mistake_names_field_value_and_fix(source: str, override: str, says: str) -> None:
    (line,) = lines(source, override)
    assert says in line


def test_every_mistake_has_its_own_line(source: str) -> None:
    found = lines(source, "schedule.epochs=a", "optimizer.lr=-1", "method.temperature=-1", "x=1")
    assert [line.partition(":")[0] for line in found] == [
        "method.temperature",
        "optimizer.lr",
        "schedule.epochs",
        "x",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name: [1", "is not plain YAML: expected ',' or ']', but got '<stream end>' (line 1)"),
        (b"name: a\nseeds: [1]\nname: b\n", "is not plain YAML: 'name' is given twice (line 3)"),
        (b"name: !!python/object/apply:os.system [touch it]", "could not determine a constructor"),
        (b"name: !!python/name:os.system", "could not determine a constructor for the tag"),
        (b"- a list", "holds no fields; see `show` for an example"),
        (b"", "holds no fields"),
        (b"name: \xff", "cannot read"),
        (b"name: \x00", "is not plain YAML"),
        (b"name: a\n", "data: missing; add it\nstudent: missing; add it\nmethod: missing; add it"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(
    content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_bytes(content)
    found = lines("bad.yaml")
    assert says in "\n".join(found)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_an_unknown_experiment_is_answered_with_the_shipped_ones() -> None:
    (line,) = lines("dmo")
    assert line.startswith("experiment: no file 'dmo', and no shipped experiment of that name")
    assert "did you mean 'demo'?" in line
    assert all(name in line for name in shipped_experiments())


def test_a_teacher_is_named_after_its_architecture(source: str) -> None:
    assert [t.name for t in load_experiment(source).teachers] == ["cnn_m", "second"]
    for arch, name in (("torchvision/resnet18", "resnet18"), ("my.nets:wide", "my.nets.wide")):
        experiment = load_experiment(source, [f"teachers=[{{arch: '{arch}'}}]"])
        assert experiment.teachers[0].name == name


@pytest.mark.parametrize(
    ("passes", "epochs", "padding", "expected"),
    [("null", 5, 2, 5), ("3", 5, 2, 3), ("9", 5, 2, 5), ("null", 99, 0, 2), ("7", 99, 0, 2)],
)
def test_no_more_passes_are_recorded_than_epochs_or_views(
    source: str, passes: str, epochs: int, padding: int, expected: int
) -> None:
    overrides = [
        f"signals.passes={passes}",
        f"schedule.epochs={epochs}",
        f"views.padding={padding}",
    ]
    assert load_experiment(source, overrides).num_passes == expected
