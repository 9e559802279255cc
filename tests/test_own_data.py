"""Data by a user's function, and some of a data set's classes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from distill.datasets import Data, DataConfig, describe, load_data
from tests.data_files import random_images, write_arrays, write_folder

Change = Callable[[dict[str, Any]], object]


def arrays(*, num_classes: int = 4, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """What a user's function returns: grey 6×6 images, 40 to train on and 8 to test."""
    draw = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for part, count in (("train", 40), ("test", 8)):
        made[f"{part}_images"] = draw.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        made[f"{part}_labels"] = np.arange(count) % num_classes
    return made | changes


@pytest.fixture
def user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's module, with a name that no other test's calls are remembered by."""
    module = ModuleType(f"user_data_{tmp_path.name}")
    module.arrays = arrays  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def given_by(module: ModuleType, function: str = "arrays", **fields: Any) -> DataConfig:
    return DataConfig(name=f"{module.__name__}:{function}", **fields)


def same_data(one: Data, other: Data) -> bool:
    return (one.fingerprint, one.class_names) == (other.fingerprint, other.class_names)


def test_a_functions_arrays_are_what_a_file_with_them_would_be(
    user_data: ModuleType, tmp_path: Path
) -> None:
    config = given_by(user_data, options={"num_classes": 5, "seed": 3})
    np.savez(tmp_path / "a.npz", **arrays(num_classes=5, seed=3))
    filed = DataConfig(name="arrays", file=tmp_path / "a.npz")
    assert same_data(load_data(config), load_data(filed))
    assert describe(config) == describe(filed)
    assert describe(config).class_names == ("0", "1", "2", "3", "4")
    other = given_by(user_data, options={"num_classes": 5, "seed": 4})
    assert not same_data(load_data(other), load_data(filed))


def test_a_function_may_give_names_and_any_layout(user_data: ModuleType, tmp_path: Path) -> None:
    images = random_images(40, 6, 6, 3)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    names = ["ant", "bee", "cat", "dog"]
    user_data.named = lambda: arrays(train_images=mapped, test_images=images[:8], class_names=names)
    data = load_data(given_by(user_data, "named"))
    assert data.class_names == tuple(names)
    rows = data.train.rows[:3]
    np.testing.assert_array_equal(
        data.train.gather(np.arange(3))[0], images[rows].transpose(0, 3, 1, 2)
    )


def test_a_function_is_called_once_a_process_and_once_more_for_the_cache(
    user_data: ModuleType,
) -> None:
    calls: list[int] = []
    user_data.counted = lambda: calls.append(1) or arrays()
    config = given_by(user_data, "counted")
    for _ in range(3):
        describe(config)
        load_data(config)
    assert len(calls) == 2


def test_arrays_that_differ_from_call_to_call_are_refused(user_data: ModuleType) -> None:
    user_data.unseeded = lambda: arrays(train_images=random_images(40, 6, 6))
    with pytest.raises(ValueError, match=r"unseeded' gave other arrays.*seed its random numbers"):
        load_data(given_by(user_data, "unseeded"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: 3, "returned a int; return a dict with train_images, train_labels, test_im"),
        (lambda made: made.pop("test_labels"), "returned no test_labels, but train_images, train"),
        (lambda made: made.update(class_name=["a"]), "returned 'class_name', .*'class_names'"),
        (lambda made: made.update(train_labels=[0]), "train_labels is a list, not an array of nu"),
        (
            lambda made: made.update(train_images=made["train_images"] / 255),
            r"train_images is float64 \[40, 6, 6\]; store whole numbers 0..255 as uint8",
        ),
        (
            lambda made: made.update(test_images=made["test_images"][:, 1:]),
            r"test_images is uint8 \[8, 5, 6\]; images must be square",
        ),
        (
            lambda made: made.update(test_images=made["test_images"][:, 1:, 1:]),
            r"train_images are \[1, 6, 6\] .* test_images \[1, 5, 5\]; give both the same shape",
        ),
        (
            lambda made: made.update(test_labels=made["test_labels"] + 1),
            r"test_labels holds 4, and the 4 classes are 0..3",
        ),
        (
            lambda made: made.update(train_labels=made["train_labels"][1:]),
            r"train_labels is int64 \[39\], not one integer for each of 40 images",
        ),
        (lambda made: made.update(class_names="abcd"), "class_names is a str; give a list of text"),
        (lambda made: made.update(class_names=["a"] * 4), "not a list of distinct names"),
        (lambda _: 1 / 0, r"failed \(ZeroDivisionError: .*given no arguments: no data.options"),
    ],
)
def test_what_is_wrong_with_a_functions_arrays_is_named(
    change: Change, says: str, user_data: ModuleType
) -> None:
    def changed() -> object:
        made = arrays()
        given = change(made)
        return given if isinstance(given, int) else made

    user_data.changed = changed
    with pytest.raises(ValueError, match=says) as caught:
        describe(given_by(user_data, "changed"))
    assert str(caught.value).startswith(f"data.name: '{user_data.__name__}:changed'")


def test_a_function_that_is_not_there_or_takes_other_options_is_named(
    user_data: ModuleType,
) -> None:
    user_data.seeded = lambda *, seed: arrays(seed=seed)
    with pytest.raises(ValueError, match=r"data.name: .* has no function 'array'; .*'arrays'"):
        describe(given_by(user_data, "array"))
    with pytest.raises(ValueError, match=r"data.name: .*no module 'no_such_module'; .*PYTHONPATH"):
        describe(DataConfig(name="no_such_module:arrays"))
    with pytest.raises(ValueError, match=r"failed \(TypeError: .*'sed'.*data.options \(sed\)"):
        describe(given_by(user_data, "seeded", options={"sed": 1}))
    with pytest.raises(ValidationError, match=r"options: 'cifar10' does not read it"):
        DataConfig(name="cifar10", options={"a": 1})


def test_classes_are_kept_in_the_order_they_are_given(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", classes=("ant", "bee", "cat"))

    def load(*classes: str | int) -> Data:
        chosen = classes or None
        return load_data(DataConfig(name="image_folder", root=root, image_size=8, classes=chosen))

    whole, some = load(), load("cat", "ant")
    assert (some.num_classes, some.class_names) == (2, ("cat", "ant"))
    for split, of_all in ((some.train, whole.train), (some.validation, whole.validation)):
        kept = np.isin(of_all.labels, [0, 2])
        np.testing.assert_array_equal(split.rows, of_all.rows[kept])
        np.testing.assert_array_equal(split.labels, np.array([1, 9, 0])[of_all.labels[kept]])
    assert len(some.test) == 4
    assert same_data(load(2, 0), some)
    assert same_data(load("ant", "bee", "cat"), whole)
    prints = [data.train.fingerprint for data in (whole, some, load("ant", "cat"), load(0, 1))]
    assert len(set(prints)) == 4


def test_a_subset_describes_itself_and_normalises_by_its_own_pixels(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", classes=("ant", "bee", "cat"))
    fields: dict[str, Any] = {"name": "image_folder", "root": root, "image_size": 8}
    config = DataConfig(**fields, classes=["cat", "bee"])
    assert (describe(config).num_classes, describe(config).class_names) == (2, ("cat", "bee"))
    data = load_data(config)
    pixels = data.train.gather(np.arange(len(data.train)))[0] / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)


def test_classes_that_are_not_there_are_told_their_neighbours(tmp_path: Path) -> None:
    file = write_arrays(tmp_path / "a.npz", class_names=np.array(["ant", "bee", "cat", "dog", "x"]))

    def describing(*classes: Any) -> None:
        config = DataConfig(name="arrays", file=file, classes=classes)
        describe(config)
        load_data(config)

    for classes, says in (
        (("ant", "bea"), r"data.classes: 'arrays' has no class 'bea'; did you mean 'bee'"),
        ((1, 5), r"data.classes: 'arrays' has no class 5; its 5 classes are 0..4"),
        (("ant", 0), r"data.classes: class 0 is given twice"),
        (("x", 4), "given twice"),
    ):
        with pytest.raises(ValueError, match=says):
            describing(*classes)
    for classes in (("ant",), (True, 2), 3, (0.5, 1)):
        with pytest.raises(ValidationError, match="classes"):
            DataConfig(name="arrays", file=file, classes=classes)  # pyright: ignore[reportArgumentType]
    file = write_arrays(file, class_names=np.array(["a", "b", "c", "d", "none", "of", "these"]))
    with pytest.raises(ValueError, match=r"no training image of none, of; choose classes that"):
        describing("none", "of")
