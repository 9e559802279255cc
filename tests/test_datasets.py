"""Data sets: configuration, splits, fingerprints, and what is kept on disk."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from distill.datasets import DataConfig, load_data
from distill.datasets.config import FUNCTION, NAMES
from distill.datasets.load import DATA_SETS
from distill.datasets.splits import hold_out, stratified_rows
from tests.data_files import random_images, write_arrays


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# Configuration


def test_an_unknown_name_is_told_its_neighbours():
    with pytest.raises(
        ValidationError, match=r"unknown data set 'fashon_mnist'; did you mean fash"
    ):
        DataConfig(name="fashon_mnist")


def test_every_name_has_its_module():
    assert set(DATA_SETS) == {*NAMES, FUNCTION}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "cifar10", "file": "x.npz"}, "file: 'cifar10' does not read it"),
        ({"name": "fashion_mnist_mini", "download": True}, "download: 'fashion_mnist_mini' does"),
        ({"name": "arrays", "file": "x", "image_size": 8}, "image_size: 'arrays' does not read"),
        ({"name": "arrays"}, "file: 'arrays' needs it"),
        ({"name": "image_folder", "image_size": 8}, "root: 'image_folder' needs it"),
        ({"name": "image_folder", "root": "x"}, "image_size: 'image_folder' needs it"),
        ({"name": "cifar10", "validation": 0.5}, "validation"),
        ({"name": "cifar10", "valdation": 0.1}, "valdation"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**fields)


def test_data_sets_import_and_describe_without_torch():
    program = (
        "import sys; from distill.datasets import *; "
        "print(describe(DataConfig(name='fashion_mnist_mini'))); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'PIL', 'pandas', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Splits


def test_hold_out_is_stratified_disjoint_and_complete():
    labels = np.repeat([0, 1, 2, 3], [100, 50, 7, 1])
    rows = np.arange(158)
    kept, held = hold_out(labels, rows, fraction=0.1, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 5, 1, 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), rows)
    assert not np.array_equal(held, hold_out(labels, rows, fraction=0.1, seed=1)[1])
    wider = hold_out(labels, rows, fraction=0.2, seed=0)[1]
    assert set(held) < set(wider)
    assert len(hold_out(labels, rows, fraction=0.0, seed=0)[1]) == 0


def test_stratified_rows_are_nested_and_name_a_class_too_small():
    labels = np.random.default_rng(0).integers(0, 5, 400)
    few, many = (stratified_rows(labels, per_class=n) for n in (10, 30))
    assert np.bincount(labels[many]).tolist() == [30] * 5
    assert set(few) < set(many)
    assert set(few) != set(stratified_rows(labels, per_class=10, seed=1))
    with pytest.raises(ValueError, match="class 0 has"):
        stratified_rows(labels, per_class=399)


# What all data sets share


def test_images_are_mapped_and_gather_copies_the_split(tmp_path, cache):
    file = write_arrays(tmp_path / "a.npz")
    data = load_data(DataConfig(name="arrays", file=file, cache_dir=cache, validation=0.3))
    raw = np.load(file)
    assert isinstance(data.train.images, np.memmap)
    assert data.train.images is data.validation.images
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 12, 8)
    positions = np.array([5, 0, 27, 5])
    images, labels = data.train.gather(positions)
    rows = data.train.rows[positions]
    np.testing.assert_array_equal(images[:, 0], raw["train_images"][rows])
    np.testing.assert_array_equal(labels, raw["train_labels"][rows])
    assert type(images) is np.ndarray
    assert images.flags.writeable
    with pytest.raises(IndexError):
        data.train.gather(np.array([28]))


def test_mean_and_std_are_those_of_the_training_split(tmp_path, cache):
    images = random_images(40, 6, 6, 3)
    file = write_arrays(tmp_path / "a.npz", train_images=images, test_images=images[:8])
    data = load_data(DataConfig(name="arrays", file=file, cache_dir=cache))
    pixels = images[data.train.rows] / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_the_fingerprint_follows_content_and_split_not_place(tmp_path):
    file = write_arrays(tmp_path / "a.npz")
    (tmp_path / "b").mkdir()
    twin = write_arrays(tmp_path / "b" / "c.npz")
    other_pixel = np.load(file)["train_images"].copy()
    other_pixel[3, 2, 1] += 1
    pixel = write_arrays(tmp_path / "d.npz", train_images=other_pixel)
    label = write_arrays(tmp_path / "e.npz", train_labels=np.arange(40)[::-1] % 4)
    test = write_arrays(tmp_path / "f.npz", test_labels=np.arange(8)[::-1] % 4)

    def load(file: Path, **fields):
        cache = tmp_path / f"cache-{file.stem}"
        return load_data(DataConfig(name="arrays", file=file, cache_dir=cache, **fields))

    first = load(file)
    assert first.fingerprint == load(twin).fingerprint == load(file).fingerprint
    changed = [load(pixel), load(label), load(file, split_seed=1), load(file, validation=0.2)]
    assert len({data.train.fingerprint for data in [first, *changed]}) == 5
    assert len({data.fingerprint for data in [first, *changed]}) == 5
    assert load(test).train.fingerprint == first.train.fingerprint
    assert load(test).fingerprint != first.fingerprint
    plain = load(file, validation=0.0)
    assert plain.fingerprint == load(file, validation=0.0, split_seed=9).fingerprint


def test_the_cache_notices_a_changed_source_and_a_damaged_entry(tmp_path, cache):
    file = write_arrays(tmp_path / "a.npz")
    config = DataConfig(name="arrays", file=file, cache_dir=cache)
    first = load_data(config)
    assert len(list((cache / "data").glob("arrays-*"))) == 1
    write_arrays(file, train_labels=np.arange(40)[::-1] % 4)
    os.utime(file, ns=(1, 1))
    assert load_data(config).fingerprint != first.fingerprint
    for images in (cache / "data").glob("*/train/images.npy"):
        images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data.cache_dir: .* is damaged .*delete it"):
        load_data(config)


def test_processes_may_race_for_one_entry(tmp_path, cache):
    file = write_arrays(tmp_path / "a.npz")
    config = DataConfig(name="arrays", file=file, cache_dir=cache)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        prints = pool.map(fingerprint_of, [config] * 8)
    assert len(set(prints)) == 1
    left = [path.name for path in (cache / "data").iterdir() if path.suffix != ".lock"]
    assert len(left) == 1


def fingerprint_of(config: DataConfig) -> str:
    return load_data(config).fingerprint


def test_the_cache_lies_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "env"))
    load_data(DataConfig(name="arrays", file=write_arrays(tmp_path / "a.npz")))
    assert list((tmp_path / "env" / "data").glob("arrays-*/train/images.npy"))
    (tmp_path / "taken").write_text("")
    config = DataConfig(name="arrays", file=tmp_path / "a.npz", cache_dir=tmp_path / "taken")
    with pytest.raises(ValueError, match=r"data.cache_dir: cannot make .*TUTELAGE_CACHE"):
        load_data(config)
