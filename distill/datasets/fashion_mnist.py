"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747): whole, 10,000 images, or embedded.

The files are IDX: two zero bytes, a type, the number of dimensions, each dimension in four
big-endian bytes, then the values.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import io
import math
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.datasets.cache import Part, Source, stamp_files, whole
from distill.datasets.config import DataConfig, DataInfo, download_root

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
MINI = "fashion_mnist_mini.npz"
_INFO = DataInfo(num_classes=10, in_channels=1, image_size=28, class_names=CLASS_NAMES)
_PREFIXES = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = 8  # IDX's code of the type
_MAX_BYTES = 1 << 26  # of an unpacked file; the largest has 47 MB


def describe(config: DataConfig) -> DataInfo:
    """28 × 28 grey images of 10 classes. Raises ValueError if no files are found or to be had."""
    if config.name != "fashion_mnist_mini" and not config.download:
        _find(config)
    return _INFO


def open_source(config: DataConfig) -> Source:
    """The data set's files, downloaded first if the configuration asks and they are missing."""
    if config.name == "fashion_mnist_mini":
        content = mini_file()
        return Source(
            kind=config.name,
            class_names=CLASS_NAMES,
            stamp=hashlib.sha256(content).hexdigest(),
            read=partial(_read_mini, content),
        )
    if config.download and _present(config) is None:
        _download(config)
    folder = _find(config)
    return Source(
        kind="fashion_mnist",
        class_names=CLASS_NAMES,
        stamp=stamp_files([file for pair in _files(folder).values() for file in pair]),
        read=partial(read_folder, folder),
        subset=1000 if config.name == "fashion_mnist_10k" else None,
    )


def read_folder(folder: Path) -> Mapping[str, Part]:
    """Both parts of a folder of IDX files. Raises ValueError naming a damaged file."""
    parts: dict[str, Part] = {}
    for name, (image_file, label_file) in _files(folder).items():
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.shape[1:] != (28, 28):
            raise ValueError(f"'{image_file}' holds {list(images.shape)}, not [N, 28, 28]")
        if labels.shape != images.shape[:1] or labels.max(initial=0) >= 10:
            raise ValueError(f"'{label_file}' is not one label in 0..9 for each of {len(images)}")
        parts[name] = whole(images[:, None], labels)
    return parts


def read_idx(file: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes, gzipped or not. Raises ValueError if damaged."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"'{file}' is damaged ({error}); fetch it again") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(f"'{file}' unpacks to more than {_MAX_BYTES:,} bytes; fetch it again")
    num_dimensions = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * num_dimensions
    if content[:3] != bytes([0, 0, _UNSIGNED_BYTES]) or not num_dimensions or len(content) < start:
        raise ValueError(f"'{file}' is not an IDX file of unsigned bytes; fetch it again")
    shape = [int(size) for size in np.frombuffer(content, ">u4", num_dimensions, offset=4)]
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"'{file}' is damaged: {len(content) - start} values, and its header says {shape}; "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def mini_file() -> bytes:
    """The embedded subset: an .npz of train_images, train_labels, test_images, test_labels."""
    return importlib.resources.files("distill").joinpath("data", MINI).read_bytes()


def _read_mini(content: bytes) -> Mapping[str, Part]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {
            part: whole(file[f"{part}_images"][:, None], file[f"{part}_labels"])
            for part in ("train", "test")
        }


def _files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Each part's files of images and labels; plain ones before gzipped ones."""

    def choose(stem: str) -> Path:
        plain = folder / stem
        return plain if plain.exists() else plain.with_name(f"{stem}.gz")

    return {
        part: (choose(f"{prefix}-images-idx3-ubyte"), choose(f"{prefix}-labels-idx1-ubyte"))
        for part, prefix in _PREFIXES.items()
    }


def _present(config: DataConfig) -> Path | None:
    root = download_root(config)
    folders = [root / "FashionMNIST" / "raw", root]
    if config.root is None:
        folders.append(DEBIAN)
    for folder in folders:
        if all(file.exists() for pair in _files(folder).values() for file in pair):
            return folder
    return None


def _find(config: DataConfig) -> Path:
    folder = _present(config)
    if folder is None:
        where = f"'{config.root}'" if config.root else f"'{DEBIAN}' or the cache"
        raise ValueError(
            f"data.root: no Fashion-MNIST in {where}; run `apt-get install dataset-fashion-mnist` "
            "and leave data.root unset, or set data.root to a folder with torchvision's "
            "FashionMNIST/raw or the four *-ubyte.gz files, or set data.download=true "
            "(fashion_mnist_mini needs no files)"
        )
    return folder


def _download(config: DataConfig) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(download_root(config)), train=True, download=True)
