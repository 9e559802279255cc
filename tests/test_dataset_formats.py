"""Each kind of data set, read from tiny files in its own format, and its errors."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.make_fashion_mnist_mini import select
from distill.datasets import DataConfig, DataInfo, describe, load_data
from distill.datasets.cifar import read_pickle
from distill.datasets.fashion_mnist import DEBIAN, mini_file, read_idx
from distill.datasets.image_folder import decode
from tests.data_files import (
    idx,
    random_images,
    write_arrays,
    write_cifar,
    write_fashion_mnist,
    write_folder,
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def debian_files() -> Path:
    assert DEBIAN.is_dir(), "apt-get install dataset-fashion-mnist"
    return DEBIAN


# Fashion-MNIST


def test_the_embedded_subset_is_small_stratified_and_needs_no_files(cache):
    config = DataConfig(name="fashion_mnist_mini", cache_dir=cache)
    data = load_data(config)
    assert describe(config) == DataInfo(num_classes=10, in_channels=1, image_size=28)
    assert np.bincount(data.train.labels).tolist() == [450] * 10
    assert np.bincount(data.validation.labels).tolist() == [50] * 10
    assert np.bincount(data.test.labels).tolist() == [100] * 10
    assert data.class_names[9] == "Ankle boot"
    assert len(mini_file()) < 4_000_000


def test_the_embedded_subset_is_what_its_script_selects(debian_files):
    from io import BytesIO

    embedded = np.load(BytesIO(mini_file()), allow_pickle=False)
    selected = select(debian_files)
    assert set(embedded.files) == set(selected)
    for name, array in selected.items():
        assert embedded[name].dtype == array.dtype
        np.testing.assert_array_equal(embedded[name], array)


def test_fashion_mnist_is_found_where_debian_puts_it(debian_files, cache):
    whole = load_data(DataConfig(name="fashion_mnist", cache_dir=cache))
    ten = load_data(DataConfig(name="fashion_mnist_10k", cache_dir=cache))
    given = load_data(DataConfig(name="fashion_mnist", root=debian_files, cache_dir=cache))
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (54_000, 6_000, 10_000)
    assert (len(ten.train), len(ten.validation), len(ten.test)) == (9_000, 1_000, 10_000)
    assert np.bincount(ten.train.labels).tolist() == [900] * 10
    assert ten.fingerprint != whole.fingerprint == given.fingerprint
    # The mean that the field normalises with, over all 60,000 images.
    everything = load_data(DataConfig(name="fashion_mnist", validation=0.0, cache_dir=cache))
    np.testing.assert_allclose([everything.mean[0], everything.std[0]], [0.2860, 0.3530], atol=1e-4)


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "."])
def test_fashion_mnist_is_read_from_its_layouts(tmp_path, cache, gzipped, layout):
    written = write_fashion_mnist(tmp_path / "root" / layout, gzipped=gzipped)
    config = DataConfig(name="fashion_mnist", root=tmp_path / "root", cache_dir=cache)
    data = load_data(config)
    images, labels = data.train.gather(np.arange(len(data.train)))
    np.testing.assert_array_equal(images[:, 0], written["images"][data.train.rows])
    np.testing.assert_array_equal(labels, written["labels"][data.train.rows])
    assert len(data.test) == 20


def test_missing_fashion_mnist_lists_the_fixes(tmp_path):
    config = DataConfig(name="fashion_mnist", root=tmp_path)
    with pytest.raises(ValueError, match=r"data.root: .*apt-get install .*data.download=true"):
        describe(config)
    downloading = DataConfig(name="fashion_mnist", root=tmp_path, download=True)
    assert describe(downloading).image_size == 28


@pytest.mark.parametrize("damage", [b"", b"\0\0\x08\x03", idx(random_images(3, 4))[:-1], b"\x1f"])
def test_damaged_idx_files_are_named(tmp_path, damage):
    for file in (tmp_path / "x-ubyte", tmp_path / "y-ubyte.gz"):
        file.write_bytes(gzip.compress(damage)[:-9] if file.suffix else damage)
        with pytest.raises(ValueError, match=rf"{file.name}' is .*fetch it again"):
            read_idx(file)


# CIFAR


@pytest.mark.parametrize(("name", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_read_in_its_own_format(tmp_path, cache, name, num_classes):
    written = write_cifar(tmp_path, name).reshape(-1, 20, 3, 32, 32)
    config = DataConfig(name=name, root=tmp_path, cache_dir=cache, validation=0.0)
    assert describe(config) == DataInfo(num_classes=num_classes, in_channels=3, image_size=32)
    data = load_data(config)
    np.testing.assert_array_equal(data.train.images, np.concatenate(written[:-1]))
    np.testing.assert_array_equal(data.test.images, written[-1])
    np.testing.assert_array_equal(data.test.labels, np.arange(20) % num_classes)
    assert data.class_names[3] == "class 3"
    assert data.num_classes == num_classes


def test_the_authors_python_2_pickles_are_read(tmp_path):
    """Written by hand as Python 2 does: text opcodes for bytes."""
    array = np.arange(3, dtype=np.uint8)
    file = tmp_path / "batch"
    raw = array.tobytes()
    old = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        b"U\x01b\x87R(K\x01K\x03\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03" + raw + b"tbs."
    )
    file.write_bytes(old)
    np.testing.assert_array_equal(read_pickle(file)["data"], array)


class Exploit:
    def __reduce__(self):
        return os.system, ("touch exploited",)


def test_a_pickle_that_runs_a_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": Exploit()}, protocol=2))
    with pytest.raises(ValueError, match=r"batch' is not a CIFAR batch \(it asks for posix.system"):
        read_pickle(tmp_path / "batch")
    assert not (tmp_path / "exploited").exists()


def test_wrong_cifar_files_are_named(tmp_path, cache):
    write_cifar(tmp_path, "cifar10")
    config = DataConfig(name="cifar10", root=tmp_path, cache_dir=cache)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    for content, message in (
        ({b"data": random_images(2, 3072), b"labels": [0, 10]}, "labels is not one label in 0..9"),
        ({b"data": random_images(2, 3072), b"labels": [0]}, "for each of 2 images"),
        ({b"data": [1, 2], b"labels": [0, 1]}, "data is not uint8"),
        ([1], "no dict"),
    ):
        batch.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(ValueError, match=rf"data_batch_3'.*{message}"):
            load_data(config)
    batch.write_bytes(b"\x80\x02}")
    with pytest.raises(ValueError, match="data_batch_3' is not a CIFAR batch"):
        load_data(config)
    batch.unlink()
    with pytest.raises(ValueError, match=r"data.root: no file .*data_batch_3'; set data.root"):
        describe(config)


# Arrays


@pytest.mark.parametrize("layout", ["hw", "hwc", "chw"])
def test_arrays_come_in_any_layout(tmp_path, cache, layout):
    canonical = random_images(40, 1 if layout == "hw" else 3, 6, 6)
    stored = {
        "hw": canonical[:, 0],
        "hwc": canonical.transpose(0, 2, 3, 1),
        "chw": canonical,
    }[layout]
    file = write_arrays(tmp_path / "a.npz", train_images=stored, test_images=stored[:8])
    config = DataConfig(name="arrays", file=file, cache_dir=cache)
    assert describe(config) == DataInfo(4, in_channels=canonical.shape[1], image_size=6)
    data = load_data(config)
    np.testing.assert_array_equal(data.train.images, canonical)
    assert data.class_names == ("0", "1", "2", "3")


def test_arrays_may_name_their_classes(tmp_path, cache):
    file = write_arrays(tmp_path / "a.npz", class_names=np.array(["a", "b", "c", "d", "e"]))
    data = load_data(DataConfig(name="arrays", file=file, cache_dir=cache))
    assert data.class_names == ("a", "b", "c", "d", "e")
    assert data.num_classes == describe(DataConfig(name="arrays", file=file)).num_classes == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": np.zeros((40, 6, 6))},
            r"train_images is float64 \[40, 6, 6\]; store whole",
        ),
        ({"train_images": np.zeros((40, 6), np.uint8)}, r"train_images is uint8 \[40, 6\]; store"),
        ({"train_images": np.zeros((40, 6, 7), np.uint8)}, "images must be square"),
        ({"train_images": np.zeros((40, 3, 3, 3), np.uint8)}, "channels first or last"),
        ({"train_images": np.zeros((40, 8, 8), np.uint8)}, "give both the same shape"),
        ({"train_labels": np.zeros(39, np.int64)}, "not one integer for each of 40 images"),
        ({"train_labels": np.zeros(40)}, "train_labels is not a list of integers"),
        ({"train_labels": np.arange(40) % 4 - 1}, "train_labels holds -1, and the 3 classes"),
        ({"test_labels": np.arange(8)}, "test_labels holds 4, and the 4 classes are 0..3"),
        ({"test_labels": None}, "has no test_labels; it holds test_images, train_images"),
        ({"class_names": np.arange(4)}, "class_names is not a list of text"),
        ({"class_names": np.array(["a", "b"])}, "train_labels holds 2, and the 2 classes"),
        ({"train_labels": np.array([None] * 40)}, "train_labels holds Python objects"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, changes, message):
    file = write_arrays(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=message):
        describe(DataConfig(name="arrays", file=file))


def test_a_missing_or_broken_file_of_arrays_is_named(tmp_path):
    write_arrays(tmp_path / "mine.npz")
    with pytest.raises(ValueError, match=r"data.file: no file .*mime.npz' \(there is 'mine.npz'\)"):
        describe(DataConfig(name="arrays", file=tmp_path / "mime.npz"))
    (tmp_path / "mine.npz").write_bytes((tmp_path / "mine.npz").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"data.file: .*mine.npz' is not a whole .npz"):
        describe(DataConfig(name="arrays", file=tmp_path / "mine.npz"))


# Folders of images


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_are_classes_in_order(tmp_path, cache, test, capfd):
    root = write_folder(tmp_path / "root", test=test)
    config = DataConfig(
        name="image_folder", root=root, image_size=8, cache_dir=cache, validation=0.2
    )
    assert describe(config) == DataInfo(num_classes=2, in_channels=3, image_size=8)
    data = load_data(config)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 4)
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 10, 40, 50]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert "decoding 10 train images" in capfd.readouterr().err
    load_data(config)
    assert "decoding" not in capfd.readouterr().err
    other = load_data(config.model_copy(update={"image_size": 4}))
    assert other.train.images.shape[1:] == (3, 4, 4)


def test_decoding_resizes_the_shorter_side_and_crops_the_centre(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (1, 2, 3)
    for name in ("a.png", "b.bmp", "c.webp"):
        Image.fromarray(wide).save(tmp_path / name, lossless=True)
        image = decode(tmp_path / name, size=10)
        assert image[:, 5, 5].tolist() == [1, 2, 3]
        assert image.shape == (3, 10, 10)
        np.testing.assert_array_equal(image, wide[:, 10:20].transpose(2, 0, 1))
    Image.fromarray(random_images(20, 40)).save(tmp_path / "grey.jpg")
    grey = decode(tmp_path / "grey.jpg", size=7)
    np.testing.assert_array_equal(grey[0], grey[2])


def test_an_unreadable_image_is_named(tmp_path, cache):
    root = write_folder(tmp_path / "root")
    broken = root / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:45])
    config = DataConfig(name="image_folder", root=root, image_size=8, cache_dir=cache)
    with pytest.raises(ValueError, match=r"data.root: cannot read image '.*dog/3.png'"):
        load_data(config)
    assert not [path for path in (cache / "data").iterdir() if path.is_dir()]


def test_wrong_folders_are_named(tmp_path):
    config = DataConfig(name="image_folder", root=tmp_path / "root", image_size=8)
    with pytest.raises(ValueError, match=r"data.root: no folder '.*root'; correct the path"):
        describe(config)
    root = write_folder(tmp_path / "root", test="tset")
    with pytest.raises(ValueError, match=r"has no folder test \(or val\)"):
        describe(config)
    (root / "tset").rename(root / "test")
    (root / "test" / "fox").mkdir()
    with pytest.raises(ValueError, match="differ in class folders: fox is in one of them only"):
        describe(config)
    (root / "train" / "fox").mkdir()
    with pytest.raises(ValueError, match=r"train/fox' has no images"):
        describe(config)
