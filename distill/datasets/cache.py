"""Decoded arrays, kept on disk as .npy and opened by memory map.

Legend: N samples of a part, c channels, h height, w width.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from numpy import ndarray

_VERSION = 1  # of what an entry holds; raise it when decoding changes
_CHUNK = 1024  # images decoded, hashed and written at a time


@final
@dataclass(frozen=True, slots=True)
class Part:
    """Training or test data before decoding: images come in chunks, uint8 [n, c, h, w]."""

    image_shape: tuple[int, int, int]  # c, h, w
    labels: Int64[ndarray, " N"]
    chunks: Callable[[], Iterable[NDArray[np.uint8]]]


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A data set found but not decoded yet."""

    kind: str
    class_names: tuple[str, ...]
    stamp: str  # changes when the source's content does
    read: Callable[[], Mapping[str, Part]]  # "train" and "test"
    subset: int | None = None  # training samples per class, if not all are used


@final
@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A part after decoding."""

    images: UInt8[ndarray, "N c h w"]  # a numpy memory map
    labels: Int64[ndarray, " N"]
    moments: Int64[ndarray, "N 2 c"]  # of each image: sum of pixels, sum of their squares
    digest: str  # sha256 hex of images' shape and bytes and of labels


def whole(images: UInt8[ndarray, "N c h w"], labels: NDArray[np.integer]) -> Part:
    """A part that is in memory already."""

    def chunks() -> Iterator[NDArray[np.uint8]]:
        for begin in range(0, len(images), _CHUNK):
            yield images[begin : begin + _CHUNK]

    channels, height, width = images.shape[1:]
    return Part((channels, height, width), labels.astype(np.int64), chunks)


def stamp_files(files: Sequence[Path], **options: Any) -> str:
    """A stamp from files' paths, sizes and times of change, and from what decoding depends on."""
    facts: list[Any] = [options]
    for file in files:
        status = file.stat()
        facts.append([str(file.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def open_cached(source: Source, folder: Path) -> dict[str, Stored]:
    """The source's parts, decoded on the first call and mapped from ``folder`` afterwards.

    Processes that share the folder decode once: the first takes a lock, and an entry appears whole.
    Raises ValueError for a folder that cannot be made and for a damaged entry.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"data.cache_dir: cannot make '{folder}' ({error.strerror}); name a folder that can be "
            "written, here or in $TUTELAGE_CACHE"
        ) from error
    key = hashlib.sha256(f"{_VERSION} {source.stamp}".encode()).hexdigest()[:24]
    entry = folder / f"{source.kind}-{key}"
    if not entry.exists():
        with FileLock(folder / f".{entry.name}.lock"):
            if not entry.exists():
                _publish(source, entry)
    try:
        return {part: _open(entry / part) for part in ("train", "test")}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"data.cache_dir: '{entry}' is damaged ({error}); delete it and it is made anew"
        ) from error


def _publish(source: Source, entry: Path) -> None:
    with tempfile.TemporaryDirectory(
        prefix=".part-", dir=entry.parent, ignore_cleanup_errors=True
    ) as scratch:
        made = Path(scratch) / "entry"
        for name, part in source.read().items():
            _write(part, made / name)
        try:
            os.replace(made, entry)
        except OSError:
            # Where locks do not work (some network disks) another process may have been first.
            if not entry.exists():
                raise


def _write(part: Part, folder: Path) -> None:
    folder.mkdir(parents=True)
    shape = (len(part.labels), *part.image_shape)
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape
    )
    moments = np.zeros((shape[0], 2, shape[1]), np.int64)
    state = hashlib.sha256(repr(shape).encode())
    done = 0
    for chunk in part.chunks():
        end = done + len(chunk)
        images[done:end] = chunk
        state.update(np.ascontiguousarray(chunk).data)
        pixels = chunk.astype(np.uint32)
        moments[done:end, 0] = pixels.sum(axis=(2, 3), dtype=np.int64)
        moments[done:end, 1] = np.square(pixels).sum(axis=(2, 3), dtype=np.int64)
        done = end
    assert done == shape[0]
    state.update(part.labels.astype("<i8").tobytes())
    images.flush()
    np.save(folder / "labels.npy", part.labels)
    np.save(folder / "moments.npy", moments)
    (folder / "digest").write_text(state.hexdigest())
    for file in folder.iterdir():
        _sync(file)


def _sync(file: Path) -> None:
    # Otherwise a crash may leave a renamed entry whose bytes never reached the disk.
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _open(folder: Path) -> Stored:
    return Stored(
        images=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        labels=np.load(folder / "labels.npy", allow_pickle=False),
        moments=np.load(folder / "moments.npy", allow_pickle=False),
        digest=(folder / "digest").read_text(),
    )
