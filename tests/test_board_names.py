"""Runs are named by what differs between them, and the table's columns are what differs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.run_differences import differing, labels, run_names, settings_of
from tests.helpers import tiny

TEACHERS = [{"arch": "resnet8", "checkpoint": "embedded/resnet8"}, {"arch": "cnn_m"}]


def settings(method: str, **changes: Any) -> dict[str, bool | int | float | str]:
    """Of a run of ``tiny``; in names of fields, ``__`` stands for a dot."""
    overrides = {path.replace("__", "."): value for path, value in changes.items()}
    overrides = {"teachers": TEACHERS, "method": method} | overrides
    return settings_of(tiny(Path("data.npz"), overrides).as_dict())


def named(*runs: dict[str, bool | int | float | str]) -> list[str]:
    return list(run_names({f"id{place}": run for place, run in enumerate(runs)}).values())


def test_a_name_tells_the_method_then_what_differs_then_the_seed() -> None:
    assert named(
        settings("kd", method__temperature=4, seeds=[0], optimizer__lr=0.1),
        settings("kd", method__temperature=4, seeds=[1]),
        settings("kd", method__temperature=2.5, seeds=[0]),
        settings("ce", seeds=[0]),
        settings("ebkd", seeds=[0]),
    ) == [
        "kd temperature=4 lr=0.1 seed=0",
        "kd temperature=4 lr=0.05 seed=1",
        "kd temperature=2.5 lr=0.05 seed=0",
        "ce lr=0.05 seed=0",
        "ebkd lr=0.05 seed=0",  # alone of its method, whose name says it all
    ]


def test_what_all_have_is_not_told() -> None:
    assert named(settings("kd")) == ["kd"]
    assert named(settings("kd", schedule__epochs=5), settings("ce", schedule__epochs=5)) == [
        "kd",
        "ce",
    ]


def test_settings_of_different_methods_are_columns_but_not_told_in_names() -> None:
    """A method's name says it all where no two runs of it differ."""
    runs = settings("kd", method__temperature=4), settings("ebkd", method__temperature=2)
    assert named(*runs) == ["kd", "ebkd"]
    assert differing(runs) == ["method.name"]
    assert set(differing(runs, across_methods=True)) == {"method.name", "method.temperature"}


def test_what_another_kind_does_not_have_is_not_told() -> None:
    assert named(
        settings("ce", optimizer={"lr": 0.1}),
        settings("ce", optimizer={"name": "adamw", "lr": 0.1}),
    ) == ["ce optimizer=sgd weight_decay=0.0005", "ce optimizer=adamw weight_decay=0.01"]
    assert named(settings("ce"), settings("ce", student__options={"norm": "none"})) == [
        "ce",
        "ce norm=none",
    ]


def test_teachers_are_told_by_their_names() -> None:
    one = settings("kd", teachers=TEACHERS[:1])
    assert named(one, settings("kd")) == ["kd teachers=resnet8", "kd teachers=resnet8, cnn_m"]
    other = settings("kd", teachers=[TEACHERS[0] | {"checkpoint": "mine.pt"}])
    assert named(one, other) == ["kd checkpoint=embedded:resnet8", "kd checkpoint=mine.pt"]


@pytest.mark.parametrize(
    "change", [{"output__root": "b"}, {"signals__root": "b"}, {"baselines": ["ce"]}]
)
def test_where_files_lie_and_other_runs_are_not_compared(change: dict[str, Any]) -> None:
    assert settings("kd", **change) == settings("kd")


def test_runs_alike_are_told_apart_by_their_ids() -> None:
    one, other = settings("kd"), settings("kd", seeds=[1])
    assert named(one, other, one) == ["kd seed=0 id0", "kd seed=1", "kd seed=0 id2"]


def test_names_are_names_of_folders() -> None:
    runs = [settings("ce", student__options={"a/b": "x" * 300, "c": c}) for c in "/\n."]
    for name in named(*runs):
        assert "/" not in name
        assert name.isprintable()
        assert len(name.encode()) < 256
    long = {f"option{i}": "é" * 30 for i in range(9)}
    runs = [settings("ce", student__options=long), settings("ce")]
    assert named(*runs) == ["id0", "ce"]


def test_names_do_not_depend_on_the_order_of_runs() -> None:
    temperatures = {f"{t} {s}": (t, s) for t in (1, 2, 4) for s in (0, 1)}
    runs = {
        key: settings("kd", method__temperature=t, seeds=[s])
        for key, (t, s) in temperatures.items()
    }
    names = run_names(runs)
    keys = random.Random(0).sample(list(runs), len(runs))
    assert run_names({key: runs[key] for key in keys}) == names
    assert len(set(names.values())) == len(runs)


def test_labels_are_as_short_as_they_can_be() -> None:
    assert labels(["optimizer.lr", "method.temperature", "seeds.0", "name"]) == {
        "optimizer.lr": "lr",
        "method.temperature": "temperature",
        "seeds.0": "seed",
        "name": "experiment",
    }
    assert labels(["optimizer.name", "method.levels.1", "method.levels.2"]) == {
        "optimizer.name": "optimizer",
        "method.levels.1": "levels.1",
        "method.levels.2": "levels.2",
    }
    deep = "teachers.0.training.optimizer.lr"
    assert labels(["optimizer.lr", deep]) == {
        "optimizer.lr": "optimizer.lr",
        deep: "training.optimizer.lr",
    }
