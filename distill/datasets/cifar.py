"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from torchvision's folder layout.

The files are Python pickles, and a pickle can run any program; these are read by an unpickler that
knows numpy arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from distill.datasets.cache import Part, Source, stamp_files
from distill.datasets.config import DataConfig, DataInfo, download_root

_IMAGE = (3, 32, 32)


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
    if not config.download:
        _find(config)
    return DataInfo(_LAYOUTS[config.name].num_classes, in_channels=3, image_size=32)


def open_source(config: DataConfig) -> Source:
    """The data set's files, downloaded first if the configuration asks and they are missing."""
    layout = _LAYOUTS[config.name]
    if config.download and _missing(config):
        _download(config)
    folder = _find(config)
    names = np.asarray(read_pickle(folder / layout.meta).get(layout.names))
    if names.shape != (layout.num_classes,) or names.dtype.kind != "U":
        raise ValueError(
            f"'{folder / layout.meta}' does not name {layout.num_classes} classes; fetch it again"
        )
    return Source(
        kind=config.name,
        class_names=tuple(names.tolist()),
        stamp=stamp_files([folder / file for file in layout.files]),
        read=partial(_read, folder, layout),
    )


def read_pickle(file: Path) -> dict[str, Any]:
    """A CIFAR batch: a dict of arrays, lists, numbers and text, keys as text.

    Raises ValueError for a damaged file and for one that asks for anything beyond numpy arrays.
    """
    try:
        content = _Unpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may fail in any way
        raise ValueError(f"'{file}' is not a CIFAR batch ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' is not a CIFAR batch (no dict); fetch it again")
    items = cast(dict[str | bytes, Any], content).items()
    return {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in items}


def _latin1(text: str, encoding: str) -> bytes:
    """Stands for ``codecs.encode``, with which Python 3 writes bytes for Python 2 to read."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding '{encoding}'")
    return text.encode("latin1")


@final
class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., Any]:
        name = f"{module_name}.{global_name}"
        if name in ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"):
            return _reconstruct
        known: dict[str, Callable[..., Any]] = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": _latin1,
        }
        if name not in known:
            raise pickle.UnpicklingError(f"it asks for {name}, which is not data")
        return known[name]


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> NDArray[Any]:
    """An empty array whose state the pickle sets next: what numpy's own function does."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"{kind} is not an array")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


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
    images = np.asarray(content.get("data"))
    labels = np.asarray(content.get(layout.labels))
    if images.dtype != np.uint8 or images.shape[1:] != (3072,):
        raise ValueError(f"'{file}': data is not uint8 [N, 3072]; fetch it again")
    valid = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not valid or labels.min(initial=0) < 0 or labels.max(initial=0) >= layout.num_classes:
        raise ValueError(
            f"'{file}': {layout.labels} is not one label in 0..{layout.num_classes - 1} for "
            f"each of {len(images)} images; fetch it again"
        )
    return images, labels.astype(np.int64)


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
