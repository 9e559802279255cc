"""Random augmentation as numbered views: view v's parameters are hashes of (seed, v, operation).

Legend: B batch, c channels, h height, w width.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from distill.views.hashing import Stream, below, hash64, unit
from distill.views.spaces import check_request

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32, Int64, UInt8
    from numpy import ndarray

_BLOCK = 64  # images whose positions are computed at a time, to stay in the processor's cache
_ONE = 1 << 16  # fixed point: 16 bits after the point
# cos and sin on [-π, π] to 1e-12: the machine's own differ between C libraries in the last place.
_TAYLOR_TERMS = 16


class _Draw(IntEnum):
    FLIP = 0
    TOP = 1
    LEFT = 2
    ANGLE = 3
    BRIGHTNESS = 4
    CONTRAST = 5
    HOLE_ROW = 6
    HOLE_COLUMN = 7


@final
class RandomAugment(BaseModel, frozen=True, extra="forbid"):
    """``num_views`` fixed draws of: brightness and contrast, flip, shift, rotation, one hole.

    Shifts are uniform in ±``padding`` pixels, angles in ±``rotation_degrees`` about the centre,
    brightness factors in 1 ± ``brightness``; contrast scales the distance from the image's mean by
    a factor in 1 ± ``contrast``. Pixels from outside are black, and so is a square of ``cutout``
    pixels about a uniform position (DeVries and Taylor, arXiv 1708.04552, whose side for CIFAR-100
    is the default; the other defaults are ours and mild). Sampling is to the nearest pixel, in
    integers: the same bytes on every machine.
    """

    kind: Literal["random_augment"] = "random_augment"
    num_views: int = Field(ge=1, lt=1 << 31)
    seed: int = 0
    padding: int = Field(default=4, ge=0, le=256)
    flip: bool = True
    rotation_degrees: float = Field(default=15.0, ge=0, le=180)
    brightness: float = Field(default=0.2, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, le=1)
    cutout: int = Field(default=8, ge=0)

    def render(
        self, images: UInt8[ndarray, "B c h w"], views: Int64[ndarray, " B"]
    ) -> UInt8[ndarray, "B c h w"]:
        """Image b's view ``views[b]``. Raises ValueError for a view that does not exist."""
        check_request(images, views, num_views=self.num_views, kind=self.kind)
        toned = self._tone(images, views) if self.brightness or self.contrast else images
        motions = self._motions(views)
        moved = np.empty(images.shape, np.uint8)
        for begin in range(0, len(images), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            sources = _sources(motions[:, block], height=images.shape[2], width=images.shape[3])
            _gather(toned[block], sources, moved[block])
        if self.cutout:
            self._cut(moved, views)
        return moved

    def fingerprint_fields(self) -> dict[str, Any]:
        """What the pixels of a pass depend on, as JSON."""
        return self.model_dump(mode="json")

    def _hash(self, views: NDArray[np.int64], draw: _Draw) -> NDArray[np.uint64]:
        return hash64(Stream.AUGMENT, self.seed, views, draw)

    def _factor(
        self, views: NDArray[np.int64], draw: _Draw, spread: float
    ) -> Float64[ndarray, " B"]:
        return 1 + spread * (2 * unit(self._hash(views, draw)) - 1)

    def _tone(
        self, images: NDArray[np.uint8], views: NDArray[np.int64]
    ) -> UInt8[ndarray, "B c h w"]:
        bright = self._factor(views, _Draw.BRIGHTNESS, self.brightness)
        contrast = self._factor(views, _Draw.CONTRAST, self.contrast)
        mean = images.sum(axis=(1, 2, 3), dtype=np.int64) / math.prod(images.shape[1:])
        # bright · (mean + contrast · (pixel - mean)), rounded, as scale · pixel + offset.
        scale = np.rint(bright * contrast * _ONE).astype(np.int32)
        offset = np.rint((bright * (1 - contrast) * mean + 0.5) * _ONE).astype(np.int32)
        toned = images.astype(np.int32)
        toned *= scale[:, None, None, None]
        toned += offset[:, None, None, None]
        toned >>= 16
        return np.clip(toned, 0, 255, out=toned).astype(np.uint8)

    def _motions(self, views: NDArray[np.int64]) -> Int32[ndarray, "5 B 1"]:
        """Each view's flip (1 or -1), shift down and right, and fixed-point cosine and sine."""
        flip = 1 - 2 * below(self._hash(views, _Draw.FLIP), 2 if self.flip else 1)
        side = 2 * self.padding + 1
        down = below(self._hash(views, _Draw.TOP), side) - self.padding
        right = below(self._hash(views, _Draw.LEFT), side) - self.padding
        angle = self._factor(views, _Draw.ANGLE, math.radians(self.rotation_degrees)) - 1
        return np.stack([flip, down, right, *_rotation(angle)]).astype(np.int32)[:, :, None]

    def _cut(self, images: NDArray[np.uint8], views: NDArray[np.int64]) -> None:
        tops = below(self._hash(views, _Draw.HOLE_ROW), images.shape[2]) - self.cutout // 2
        lefts = below(self._hash(views, _Draw.HOLE_COLUMN), images.shape[3]) - self.cutout // 2
        for image, top, left in zip(images, tops.tolist(), lefts.tolist(), strict=True):
            image[:, max(0, top) : top + self.cutout, max(0, left) : left + self.cutout] = 0


def _rotation(angle: NDArray[np.float64]) -> tuple[Float64[ndarray, " B"], Float64[ndarray, " B"]]:
    """Fixed-point cosine and sine of angles in [-π, π]."""
    square = angle * angle
    cosine, sine = np.ones_like(angle), np.ones_like(angle)
    for term in range(2 * _TAYLOR_TERMS, 0, -2):
        cosine = 1 - cosine * square / (term * (term - 1))
        sine = 1 - sine * square / (term * (term + 1))
    return np.rint(cosine * _ONE), np.rint(sine * angle * _ONE)


def _sources(
    motions: Int32[ndarray, "5 B 1"], *, height: int, width: int
) -> Int32[ndarray, "B h*w"]:
    """The flat position of each output pixel's source in the image bordered by one zero."""
    flip, down, right, cosine, sine = motions
    # Coordinates from the centre are doubled, for the centre may lie between two pixels.
    y = _centred(height) + 2 * down
    x = _centred(width) * flip + 2 * right
    rows = _nearest((cosine * y)[:, :, None] + (sine * x)[:, None, :], height)
    columns = _nearest((cosine * x)[:, None, :] - (sine * y)[:, :, None], width)
    rows *= width + 2
    rows += columns
    return rows.reshape(len(flip), height * width)


def _centred(size: int) -> NDArray[np.int32]:
    return 2 * np.arange(size, dtype=np.int32) - np.int32(size - 1)


def _nearest(doubled: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Pixel in the bordered image (0 and size + 1 are border) from a doubled fixed-point offset."""
    doubled += np.int32((size + 2) * _ONE)
    doubled >>= 17
    return np.clip(doubled, 0, size + 1, out=doubled)


def _gather(
    images: UInt8[ndarray, "B c h w"],
    sources: Int32[ndarray, "B h*w"],
    out: UInt8[ndarray, "B c h w"],
) -> None:
    num_images, channels, height, width = images.shape
    bordered = np.zeros((num_images, channels, height + 2, width + 2), np.uint8)
    bordered[:, :, 1:-1, 1:-1] = images
    flat = bordered.reshape(num_images, channels, -1)
    targets = out.reshape(num_images, channels, height * width)
    for image, source, target in zip(flat, sources, targets, strict=True):
        # A mode other than "raise" spares a buffered copy; _nearest has clipped already.
        np.take(image, source, axis=1, out=target, mode="clip")
