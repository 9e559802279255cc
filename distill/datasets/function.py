"""Data by a user's function: ``package.module:function``, called as ``function(**options)``.

It returns what an .npz of ``arrays`` holds: {train,test}_{images,labels} and, optionally,
class_names, in a mapping. It is called once in every process that reads the data, and once more
where its arrays are not in the cache yet: what it gives must be the same each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from distill.datasets.cache import Part, Source, whole
from distill.datasets.config import DataConfig, DataInfo
from distill.datasets.members import (
    CLASS_NAMES,
    MEMBERS,
    ImageShape,
    channels_first,
    check_alike,
    check_labels,
    image_shape,
    numbered,
)
from distill.models.catalog import suggest
from distill.user_code import load_function

_CHUNK = 1024  # images hashed at a time: they may be mapped from a file larger than memory


def describe(config: DataConfig) -> DataInfo:
    """From the arrays themselves: the function is imported and called.

    Raises ValueError naming the member with a wrong type, shape or label.
    """
    return _facts(config.name, _spelt(config)).info


def open_source(config: DataConfig) -> Source:
    """The function's arrays, stamped by their bytes."""
    facts = _facts(config.name, _spelt(config))
    return Source(
        kind="function",
        class_names=facts.info.class_names,
        stamp=facts.stamp,
        read=partial(_read_again, config, facts.stamp),
    )


@final
@dataclass(frozen=True, slots=True)
class _Facts:
    """What is kept of a call: not its arrays, which may be large."""

    info: DataInfo
    stamp: str


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Arrays:
    """What a function gave, checked."""

    parts: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.integer]]]  # images [N, c, h, w]
    class_names: tuple[str, ...]

    def stamp(self) -> str:
        """sha256 of every byte."""
        state = hashlib.sha256(json.dumps(self.class_names).encode())
        for images, labels in self.parts.values():
            state.update(repr(images.shape).encode())
            for chunk in _chunks(images):
                state.update(np.ascontiguousarray(chunk).data)
            state.update(labels.astype("<i8").tobytes())
        return state.hexdigest()


def _chunks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for begin in range(0, len(images), _CHUNK):
        yield images[begin : begin + _CHUNK]


def _spelt(config: DataConfig) -> str:
    """The options, in one spelling: calls are remembered by it."""
    try:
        return json.dumps(config.options, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"data.options: {error}; give plain values") from None


@lru_cache
def _facts(name: str, options: str) -> _Facts:
    arrays = _call(name, json.loads(options))
    images, _ = arrays.parts["train"]
    _, channels, size, _ = images.shape
    names = arrays.class_names
    info = DataInfo(len(names), in_channels=channels, image_size=size, class_names=names)
    return _Facts(info, arrays.stamp())


def _read_again(config: DataConfig, stamp: str) -> Mapping[str, Part]:
    """The parts, from a second call: arrays that differ from call to call would differ from worker
    to worker, and no record would fit them.
    """
    arrays = _call(config.name, config.options)
    if arrays.stamp() != stamp:
        raise ValueError(
            f"data.name: '{config.name}' gave other arrays when it was called again; make it give "
            "the same each time: seed its random numbers, and sort the files that it lists"
        )
    return {part: whole(images, labels) for part, (images, labels) in arrays.parts.items()}


def _call(name: str, options: Mapping[str, Any]) -> _Arrays:
    try:
        function = load_function(name)
    except ValueError as error:
        raise ValueError(f"data.name: {error}") from error
    try:
        given = function(**options)
    except Exception as error:  # a user's function may fail in any way
        takes = (
            f"data.options ({', '.join(options)})" if options else "no arguments: no data.options"
        )
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"data.name: '{name}' failed ({reason}); it is given {takes}") from error
    return _checked(given, where=f"data.name: '{name}'")


def _checked(given: object, *, where: str) -> _Arrays:
    """Raises ValueError that opens with ``where`` for anything but the arrays of a data set."""
    members = _members(given, where=where)
    shapes: dict[str, ImageShape] = {}
    for part in ("train", "test"):
        images = _array(members, f"{part}_images", where=where)
        shapes[part] = image_shape(images.shape, images.dtype, f"{part}_images", where=where)
    check_alike(shapes["train"], shapes["test"], where=where)
    names = _names(members, where=where)
    parts: dict[str, tuple[NDArray[np.uint8], NDArray[np.integer]]] = {}
    for part, shape in shapes.items():
        labels = _array(members, f"{part}_labels", where=where)
        check_labels(labels, part, where=where, num_images=shape[0], num_classes=len(names))
        parts[part] = channels_first(_array(members, f"{part}_images", where=where), shape), labels
    return _Arrays(parts, names)


def _members(given: object, *, where: str) -> Mapping[str, object]:
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise ValueError(f"{where} returned a {kind}; return a dict with {', '.join(MEMBERS)}")
    members = cast("Mapping[str, object]", given)
    for name in MEMBERS:
        if name not in members:
            held = ", ".join(map(str, members)) or "nothing"
            raise ValueError(
                f"{where} returned no {name}, but {held}; return a dict with {', '.join(MEMBERS)}"
            )
    for name in members:
        if name not in (*MEMBERS, CLASS_NAMES):
            hint = suggest(str(name), (*MEMBERS, CLASS_NAMES), label="it may hold")
            raise ValueError(f"{where} returned '{name}', which nobody reads; {hint}")
    return members


def _array(members: Mapping[str, object], member: str, *, where: str) -> NDArray[Any]:
    value = members[member]
    if not isinstance(value, np.ndarray):
        kind = type(value).__name__
        raise ValueError(f"{where}: {member} is a {kind}, not an array of numpy's; convert it")
    return value


def _names(members: Mapping[str, object], *, where: str) -> tuple[str, ...]:
    """Those that the function gave, or else the numbers up to the largest training label."""
    names = members.get(CLASS_NAMES)
    if names is None:
        return numbered(_array(members, "train_labels", where=where), where=where)
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if not isinstance(names, list | tuple):
        raise ValueError(f"{where}: class_names is a {type(names).__name__}; give a list of text")
    listed = cast("Sequence[object]", names)
    if not all(isinstance(name, str) for name in listed) or len(set(listed)) < len(listed):
        raise ValueError(f"{where}: class_names is not a list of distinct names; correct it")
    return tuple(map(str, listed))
