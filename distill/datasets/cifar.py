"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from torchvision's folder layout.

The files are Python pickles, and a pickle can run any program; these are read as data, of which
numpy's arrays are a part (distill/plain_pickle.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, cast, final

import numpy as np
from numpy.typing import NDArray

from distill.datasets.cache import Part, Source, stamp_files
from distill.datasets.config import DataConfig, DataInfo, download_root
from distill.plain_pickle import StandIn, is_list_of, read_plain

_IMAGE = (3, 32, 32)
_MAX_BYTES = 1 << 28  # of a file; the largest, CIFAR-100's train, has 155 MB
_MAX_ARRAYS = 8  # in a file; the authors' have one
_NUMBERS = re.compile(r"[biu][1248]")


@final
@dataclass(frozen=True, slots=True)
class _Layout:
    folder: str
    parts: Mapping[str, Sequence[str]]
    meta: str
    labels: str
    names: str
    num_classes: int

    @property
    def files(self) -> list[str]:
        return [file for part in self.parts.values() for file in part] + [self.meta]


_LAYOUTS = {
    "cifar10": _Layout(
        folder="cifar-10-batches-py",
        parts={"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
        meta="batches.meta",
        labels="labels",
        names="label_names",
        num_classes=10,
    ),
    "cifar100": _Layout(
        folder="cifar-100-python",
        parts={"train": ["train"], "test": ["test"]},
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
        num_classes=100,
    ),
}


def describe(config: DataConfig) -> DataInfo:
    """32 × 32 colour images. Raises ValueError if no files are found or to be had."""
    num_classes = _LAYOUTS[config.name].num_classes
    names = ()
    if not (config.download and _missing(config)):
        names = _class_names(_find(config), _LAYOUTS[config.name])
    return DataInfo(num_classes, in_channels=3, image_size=32, class_names=names)


def open_source(config: DataConfig) -> Source:
    """The data set's files, downloaded first if the configuration asks and they are missing."""
    layout = _LAYOUTS[config.name]
    if config.download and _missing(config):
        _download(config)
    folder = _find(config)
    return Source(
        kind=config.name,
        class_names=_class_names(folder, layout),
        stamp=stamp_files([folder / file for file in layout.files]),
        read=partial(_read, folder, layout),
    )


def _class_names(folder: Path, layout: _Layout) -> tuple[str, ...]:
    names = read_pickle(folder / layout.meta).get(layout.names)
    if not is_list_of(names, str) or len(names) != layout.num_classes:
        raise ValueError(
            f"'{folder / layout.meta}' does not name {layout.num_classes} classes; fetch it again"
        )
    return tuple(names)


def read_pickle(file: Path) -> dict[str, Any]:
    """A CIFAR batch: a dict of arrays, lists, numbers and text, keys as text.

    Raises ValueError for a damaged file and for one that asks for anything beyond numpy arrays.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        read = read_plain(file.read_bytes(), _KNOWN)
        if read.unknown:
            raise ValueError(f"it asks for {read.unknown[0]}, which is not data")
        if not isinstance(read.value, dict):
            raise ValueError("no dict")
        return _with_arrays(cast(dict[object, object], read.value))
    except Exception as error:  # a damaged or hostile file may fail in any way
        raise ValueError(f"'{file}' is not a CIFAR batch ({error}); fetch it again") from error


def _with_arrays(items: Mapping[object, object]) -> dict[str, Any]:
    if sum(isinstance(value, _Array) for value in items.values()) > _MAX_ARRAYS:
        raise ValueError(f"it holds more than {_MAX_ARRAYS} arrays")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): (
            value.array() if isinstance(value, _Array) else value
        )
        for key, value in items.items()
    }


@final
class _DType(StandIn):
    """Stands for numpy's type of whole numbers."""

    def __init__(self, name: object, *_rest: object) -> None:
        self.name, self.order = str(name), "|"

    def restore(self, state: object) -> None:
        self.order = str(cast("tuple[object, ...]", state)[1])

    def dtype(self) -> np.dtype[Any]:
        if not _NUMBERS.fullmatch(self.name) or self.order not in ("|", "<", ">", "="):
            raise ValueError(f"it holds an array of '{self.order}{self.name}', not whole numbers")
        return np.dtype(self.order + self.name)


@final
class _Array(StandIn):
    """Stands for numpy's array, made from the bytes that its file really has."""

    def __init__(self, *_empty: object) -> None:
        self.state: object = ()

    def restore(self, state: object) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        _, shape, dtype, by_columns, raw = cast("tuple[object, ...]", self.state)
        if not isinstance(dtype, _DType):
            raise ValueError("it holds an array of no type")
        # Python 2 wrote bytes as text, and so does Python 3 in the old protocol.
        content = raw.encode("latin1") if isinstance(raw, str) else cast(bytes, raw)
        array = np.frombuffer(content, dtype.dtype())
        return array.reshape(cast("tuple[int, ...]", shape), order="F" if by_columns else "C")


def _ndarray() -> None:
    """Stands for the class, which is only ever handed to ``_Array``."""


def _encode(text: object, _encoding: object) -> object:
    """Stands for ``codecs.encode``; the text is encoded where it is used, and once."""
    return text


_KNOWN = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _DType,
    "_codecs.encode": _encode,
}


def _read(folder: Path, layout: _Layout) -> Mapping[str, Part]:
    parts: dict[str, Part] = {}
    for name, stems in layout.parts.items():
        files = [folder / stem for stem in stems]
        labels = [_batch(file, layout)[1] for file in files]
        parts[name] = Part(_IMAGE, np.concatenate(labels), partial(_chunks, files, layout))
    return parts


def _chunks(files: Sequence[Path], layout: _Layout) -> Iterator[NDArray[np.uint8]]:
    for file in files:
        yield _batch(file, layout)[0].reshape(-1, *_IMAGE)


def _batch(file: Path, layout: _Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = read_pickle(file)
    images, labels = content.get("data"), content.get(layout.labels)
    if is_list_of(labels, int):
        labels = np.asarray(labels)
    if not _is_array(images) or images.dtype != np.uint8 or images.shape[1:] != (3072,):
        raise ValueError(f"'{file}': data is not uint8 [N, 3072]; fetch it again")
    if (
        not _is_array(labels)
        or labels.dtype.kind not in "iu"
        or labels.shape != images.shape[:1]
        or labels.min(initial=0) < 0
        or labels.max(initial=0) >= layout.num_classes
    ):
        raise ValueError(
            f"'{file}': {layout.labels} is not one label in 0..{layout.num_classes - 1} for "
            f"each of {len(images)} images; fetch it again"
        )
    return images, labels.astype(np.int64)


def _is_array(value: object) -> TypeGuard[NDArray[Any]]:
    return isinstance(value, np.ndarray)


def _missing(config: DataConfig) -> list[Path]:
    layout = _LAYOUTS[config.name]
    folder = download_root(config) / layout.folder
    return [folder / file for file in layout.files if not (folder / file).exists()]


def _find(config: DataConfig) -> Path:
    missing = _missing(config)
    if missing:
        raise ValueError(
            f"data.root: no file '{missing[0]}'; set data.root to the folder that holds "
            f"{_LAYOUTS[config.name].folder}/, or set data.download=true"
        )
    return download_root(config) / _LAYOUTS[config.name].folder


def _download(config: DataConfig) -> None:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]
    kind(str(download_root(config)), download=True)
