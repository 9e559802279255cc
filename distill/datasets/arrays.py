"""A user's own arrays in one .npz: {train,test}_{images,labels} and, optionally, class_names.

Legend: N samples, c channels, h height, w width; images are square.
"""

from __future__ import annotations

import difflib
import io
import math
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from distill.datasets.cache import Part, Source, stamp_files, whole
from distill.datasets.config import DataConfig, DataInfo
from distill.datasets.members import (
    MEMBERS,
    ImageShape,
    channels_first,
    check_alike,
    check_labels,
    image_shape,
    numbered,
)

_HEADER_BYTES = 1 << 16  # of a member's header; numpy's own take 128
# An archive that unpacks to so many bytes, and so many times its size, is taken for a bomb. Real
# images rarely shrink to a tenth.
_MAX_UNPACKED, _MAX_RATIO = 1 << 28, 100


def describe(config: DataConfig) -> DataInfo:
    """From the images' headers and the labels; no image is read.

    Raises ValueError naming the member with a wrong type, shape or label.
    """
    file = _file(config)
    with _opened(file):
        shapes = {part: _image_shape(file, part) for part in ("train", "test")}
        check_alike(shapes["train"], shapes["test"], where=_where(file))
        with np.load(file, allow_pickle=False) as content:
            names = _class_names(file, content)
            for part, shape in shapes.items():
                check_labels(
                    _small(file, content, f"{part}_labels"),
                    part,
                    where=_where(file),
                    num_images=shape[0],
                    num_classes=len(names),
                )
    _, channels, size, _ = shapes["train"]
    return DataInfo(len(names), in_channels=channels, image_size=size, class_names=names)


def open_source(config: DataConfig) -> Source:
    """The file, checked as ``describe`` does."""
    describe(config)
    file = _file(config)
    with _opened(file), np.load(file, allow_pickle=False) as content:
        names = _class_names(file, content)
    return Source(
        kind="arrays",
        class_names=names,
        stamp=stamp_files([file]),
        read=partial(_read, file),
    )


def _read(file: Path) -> Mapping[str, Part]:
    parts: dict[str, Part] = {}
    with _opened(file), np.load(file, allow_pickle=False) as content:
        for part in ("train", "test"):
            images = channels_first(content[f"{part}_images.npy"], _image_shape(file, part))
            parts[part] = whole(images, content[f"{part}_labels.npy"])
    return parts


def _file(config: DataConfig) -> Path:
    assert config.file is not None
    file = config.file
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [f.name for f in file.parent.glob("*.npz")])
        hint = f" (there is '{near[0]}')" if near else ""
        raise ValueError(f"data.file: no file '{file}'{hint}; correct the path")
    return file


@contextmanager
def _opened(file: Path) -> Generator[None]:
    try:
        yield
    except Exception as error:  # a damaged or hostile archive may fail in any way
        if isinstance(error, ValueError) and str(error).startswith("data.file: "):
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"data.file: '{file}' is not a whole .npz ({reason}); write it with numpy.savez"
        ) from error


def _header(file: Path, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """A member's shape and type from its first bytes."""
    with zipfile.ZipFile(file) as archive:
        if f"{member}.npy" not in archive.namelist():
            held = sorted(name.removesuffix(".npy") for name in archive.namelist())
            raise ValueError(
                f"data.file: '{file}' has no {member}; it holds {', '.join(held)}, "
                f"and needs {', '.join(MEMBERS)}"
            )
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(_MAX_UNPACKED, _MAX_RATIO * file.stat().st_size):
            raise ValueError(
                f"data.file: '{file}' unpacks to {unpacked:,} bytes, more than {_MAX_RATIO} times "
                "its size; if it is what you expect, write it anew with numpy.savez"
            )
        with archive.open(f"{member}.npy") as stream:
            head = io.BytesIO(stream.read(_HEADER_BYTES))
        size = archive.getinfo(f"{member}.npy").file_size
    try:
        version = npy.read_magic(head)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(head)
    except Exception as error:  # a damaged or hostile header may fail in any way
        raise ValueError(f"data.file: '{file}': {member} is no array of numpy's") from error
    # numpy makes room for what a header says before it reads the rest.
    if not dtype.hasobject and head.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"data.file: '{file}': {member} is said to be {dtype} {list(shape)}, and has "
            f"{size:,} bytes; write it anew with numpy.savez"
        )
    return shape, dtype


def _image_shape(file: Path, part: str) -> ImageShape:
    member = f"{part}_images"
    return image_shape(*_header(file, member), member, where=_where(file))


def _where(file: Path) -> str:
    return f"data.file: '{file}'"


def _small(file: Path, content: Mapping[str, NDArray[Any]], member: str) -> NDArray[Any]:
    """Labels or names. Objects are refused: reading them would unpickle."""
    if _header(file, member)[1].hasobject:
        raise ValueError(
            f"data.file: '{file}': {member} holds Python objects; store integers or text"
        )
    return content[f"{member}.npy"]  # not what bears the bare name


def _class_names(file: Path, content: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Those of the file, or else the numbers up to the largest training label."""
    if "class_names" not in content:
        return numbered(_small(file, content, "train_labels"), where=_where(file))
    names = _small(file, content, "class_names")
    if names.dtype.kind != "U" or names.ndim != 1:
        raise ValueError(f"data.file: '{file}': class_names is not a list of text")
    return tuple(str(name) for name in names)
