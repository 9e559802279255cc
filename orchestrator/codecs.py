"""How a signal's numbers become the bytes of a row, and what that costs in accuracy.

A row is one sample's answer; all rows of a column are equally long, so that a batch is one gather.
Everything is little-endian. Imports neither torch nor ray.

Legend: n rows, C classes, k kept classes, g groups that share a scale, E elements of a sample.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast, final

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, UInt8

    Values = Float32[np.ndarray, "n ..."]  # n samples of the codec's shape
    Rows = UInt8[np.ndarray, "n row_bytes"]

Tail = Literal["drop", "uniform", "residual"]

CODECS = ("float32", "float16", "int8", "topK-drop", "topK-uniform", "topK-residual")
FLOAT16_MAX = 65504.0
# Dropped classes lie this far below the smallest kept one: no mass at any temperature in use
# (exp(-1e4/20) is 0 in float32), yet finite, so that 0·log 0 never becomes NaN.
DROP_DEPTH = 1e4

_RELATIVE = "largest error over the sample's largest magnitude"
_TOP_K = re.compile(r"top([1-9]\d*)(?:-(drop|uniform|residual))?")


class Codec(Protocol):
    """Encodes samples of one shape into rows of one length."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        ...

    @property
    def name(self) -> str:
        """Safe in a path; pins every parameter, so that equal names mean equal bytes."""
        ...

    @property
    def row_bytes(self) -> int: ...

    @property
    def dtype(self) -> np.dtype:
        """What ``decode`` returns."""
        ...

    @property
    def error_kind(self) -> str:
        """What the number that ``error`` returns is, in words."""
        ...

    def encode(self, values: Values) -> Rows:
        """Rows of ``values``. Raises ValueError naming the row that cannot be written, and why."""
        ...

    def decode(self, rows: Rows) -> Float[np.ndarray, "n ..."]:
        """The values of ``rows``; without a copy where the row holds them as they are."""
        ...

    def error(self, values: Values, rows: Rows) -> float:
        """The largest error that ``rows`` make, of the kind ``error_kind`` says."""
        ...


@final
@dataclass(frozen=True, slots=True)
class DenseCodec:
    """Every element as it is, in float32 or float16 (round to nearest); decoding copies nothing."""

    shape: tuple[int, ...]
    name: Literal["float32", "float16"]
    error_kind = _RELATIVE

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.name).newbyteorder("<")

    def encode(self, values: Values) -> Rows:
        flat_nE = _checked(values, self.shape)
        if self.name == "float16":
            _refuse_overflow(flat_nE, self.name)
        return np.ascontiguousarray(flat_nE, dtype=self.dtype).view(np.uint8)

    def decode(self, rows: Rows) -> Float[np.ndarray, "n ..."]:
        return rows.view(self.dtype).reshape(-1, *self.shape)

    def error(self, values: Values, rows: Rows) -> float:
        return _relative_error(values, self.decode(rows))


@final
@dataclass(frozen=True, slots=True)
class Int8Codec:
    """One byte an element, with one float16 step a sample and channel (one a sample if 1-d).

    A channel without negative values, as after a ReLU, uses all 255 steps above zero; any other
    127 on either side. The step's sign bit says which. The error is at most half a step: the
    channel's largest magnitude over 510, or 254; steps round up, so nothing clips.
    """

    shape: tuple[int, ...]
    name = "int8"
    dtype = np.dtype(np.float32)
    error_kind = _RELATIVE

    @property
    def row_bytes(self) -> int:
        return 2 * self._groups + math.prod(self.shape)

    @property
    def _groups(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    def encode(self, values: Values) -> Rows:
        flat_nE = _checked(values, self.shape)
        flat_ngE = flat_nE.reshape(len(flat_nE), self._groups, -1)
        unsigned_ng = flat_ngE.min(axis=2) >= 0
        exact_ng = np.abs(flat_ngE).max(axis=2) / np.where(unsigned_ng, 255, 127)
        _refuse_overflow(exact_ng, "int8's step")
        step_ng = _float16_at_least(exact_ng)
        divisor_ng = np.where(step_ng == 0, 1, step_ng)
        codes_ngE = np.rint(flat_ngE / divisor_ng[..., None])
        codes_ngE += np.where(unsigned_ng, 0, 128)[..., None]
        signed_ng = np.where(unsigned_ng, -step_ng, step_ng).astype("<f2")
        codes_nE = codes_ngE.astype(np.uint8).reshape(flat_nE.shape)
        return np.concatenate([signed_ng.view(np.uint8), codes_nE], axis=1)

    def decode(self, rows: Rows) -> Values:
        steps_ng = rows[:, : 2 * self._groups].view("<f2").astype(np.float32)
        zeros_ng = np.where(np.signbit(steps_ng), 0, 128).astype(np.float32)
        values_nE = rows[:, 2 * self._groups :].astype(np.float32)
        values_ngE = values_nE.reshape(*steps_ng.shape, -1)
        values_ngE -= zeros_ng[..., None]
        values_ngE *= np.abs(steps_ng)[..., None]
        return values_ngE.reshape(-1, *self.shape)

    def error(self, values: Values, rows: Rows) -> float:
        return _relative_error(values, self.decode(rows))


@final
@dataclass(frozen=True, slots=True)
class TopKCodec:
    """The k largest logits in float16, largest first, their classes, and a rule for the others.

    ``decode`` returns logits of all C classes: the kept ones as they are, and for each other
    - ``residual``: log(mass of the tail / (C-k)), from one more float16 in the row, the tail's
      log-sum-exp. Softmax at τ=1 then gives kept classes and tail the teacher's own masses.
    - ``uniform``: smallest kept logit - log(C-k): the whole tail weighs as much as the least
      kept class, which is a guess that needs no bytes.
    - ``drop``: smallest kept logit - 1e4: no mass at all.
    A row takes 2k bytes of logits, 2 for ``residual``, and k of classes (2k beyond 256 classes).
    """

    shape: tuple[int, ...]
    k: int
    tail: Tail
    dtype = np.dtype(np.float32)
    error_kind = "largest change of a class's probability at τ=1"

    @property
    def name(self) -> str:
        return f"top{self.k}-{self.tail}"

    @property
    def row_bytes(self) -> int:
        return 2 * self._num_logits + self.k * self._class_dtype.itemsize

    @property
    def _num_logits(self) -> int:
        return self.k + (self.tail == "residual")

    @property
    def _class_dtype(self) -> np.dtype:
        return np.min_scalar_type(self.shape[0] - 1).newbyteorder("<")

    def encode(self, values: Float32[np.ndarray, "n C"]) -> Rows:
        logits_nC = _checked(values, self.shape)
        # A stable sort: among equal logits the lower class is kept on every machine.
        classes_nk = np.argsort(-logits_nC, axis=1, kind="stable")[:, : self.k]
        stored = [np.take_along_axis(logits_nC, classes_nk, axis=1)]
        if self.tail == "residual":
            rest_nC = logits_nC.copy()
            np.put_along_axis(rest_nC, classes_nk, -np.inf, axis=1)
            peak_n1 = rest_nC.max(axis=1, keepdims=True)
            mass_n1 = np.exp(rest_nC - peak_n1).sum(axis=1, keepdims=True)
            stored.append(peak_n1 + np.log(mass_n1))
        stored_nk = np.concatenate(stored, axis=1)
        _refuse_overflow(stored_nk, self.name)
        logit_bytes = stored_nk.astype("<f2").view(np.uint8)
        class_bytes = np.ascontiguousarray(classes_nk.astype(self._class_dtype)).view(np.uint8)
        return np.concatenate([logit_bytes, class_bytes], axis=1)

    def decode(self, rows: Rows) -> Float32[np.ndarray, "n C"]:
        width = 2 * self._num_logits
        stored_nk = rows[:, :width].view("<f2").astype(np.float32)
        classes_nk = rows[:, width:].view(self._class_dtype).astype(np.int64)
        spread = np.float32(math.log(self.shape[0] - self.k))
        if self.tail == "drop":
            rest_n1 = stored_nk[:, self.k - 1 : self.k] - np.float32(DROP_DEPTH)
        else:  # the last number is the smallest kept logit (uniform) or the tail's log-mass
            rest_n1 = stored_nk[:, -1:] - spread
        logits_nC = np.repeat(rest_n1, self.shape[0], axis=1)
        np.put_along_axis(logits_nC, classes_nk, stored_nk[:, : self.k], axis=1)
        return logits_nC

    def error(self, values: Values, rows: Rows) -> float:
        change_nC = _softmax(self.decode(rows)) - _softmax(values)
        return float(np.abs(change_nC).max(initial=0.0))


def codec_name(text: str) -> str:
    """The full name of a codec (``top10`` is ``top10-residual``).

    Raises ValueError listing the codecs, with a near miss.
    """
    if text in ("float32", "float16", "int8"):
        return text
    match = _TOP_K.fullmatch(text)
    if match is None:
        likely = difflib.get_close_matches(text, [*CODECS, "top10", "top10-residual"], n=1)
        hint = f"; did you mean {likely[0]}?" if likely else ""
        raise ValueError(f"unknown codec '{text}'; codecs: {', '.join(CODECS)} (as top10){hint}")
    return f"top{match[1]}-{match[2] or 'residual'}"


def make_codec(text: str, shape: tuple[int, ...]) -> Codec:
    """The codec called ``text`` (``topK`` keeps its residual) for samples of ``shape``.

    Raises ValueError listing the codecs where there is none of that name, and where ``shape``
    is empty or top-K is asked of anything but K + 1 or more logits.
    """
    name = codec_name(text)
    if not shape or min(shape) < 1:
        raise ValueError(f"codec {name}: a sample of shape {list(shape)} has no elements")
    if name in ("float32", "float16"):
        return DenseCodec(shape, name)
    match = _TOP_K.fullmatch(name)
    if match is None:
        return Int8Codec(shape)
    k = int(match[1])
    if len(shape) != 1 or k >= shape[0]:
        raise ValueError(
            f"codec {name}: keeps {k} of a vector of more than {k} logits, "
            f"but the signal's shape is {list(shape)}; use float16"
        )
    return TopKCodec(shape, k, cast(Tail, match[2]))


def _checked(values: np.ndarray, shape: tuple[int, ...]) -> Float32[np.ndarray, "n E"]:
    if values.ndim != len(shape) + 1 or values.shape[1:] != shape:
        raise ValueError(f"values of shape {list(values.shape)}, not [n, {str(list(shape))[1:]}")
    flat_nE = values.astype(np.float32, copy=False).reshape(len(values), math.prod(shape))
    # NaN passes through max and min: two numbers tell, without an array as large as the values.
    if not (np.isfinite(flat_nE.max(initial=0)) and np.isfinite(flat_nE.min(initial=0))):
        row, element = np.argwhere(~np.isfinite(flat_nE))[0]
        raise ValueError(f"row {row} is not finite: it holds {flat_nE[row, element]}")
    return flat_nE


def _refuse_overflow(numbers: np.ndarray, what: str) -> None:
    if max(numbers.max(initial=0), -numbers.min(initial=0)) > FLOAT16_MAX:
        row, element = np.argwhere(np.abs(numbers) > FLOAT16_MAX)[0]
        value = float(numbers[row, element])
        raise ValueError(f"row {row} holds {value:g}, beyond {what}'s {FLOAT16_MAX:g}; use float32")


def _float16_at_least(numbers: np.ndarray) -> np.ndarray:
    """The least float16 not below each of ``numbers`` (all >= 0), as float32."""
    nearest: np.ndarray = numbers.astype(np.float16)
    above: np.ndarray = np.nextafter(nearest, np.float16(np.inf))
    return np.where(nearest < numbers, above, nearest).astype(np.float32)


def _relative_error(values: np.ndarray, decoded: np.ndarray) -> float:
    change_nE = decoded.reshape(len(values), -1).astype(np.float32)
    exact_nE = values.reshape(change_nE.shape)
    change_nE -= exact_nE
    worst_n, largest_n = (np.maximum(a.max(axis=1), -a.min(axis=1)) for a in (change_nE, exact_nE))
    return abs(float((worst_n / np.where(largest_n == 0, 1, largest_n)).max(initial=0.0)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
