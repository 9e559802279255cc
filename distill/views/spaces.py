"""View spaces that are enumerated exactly: the image itself, and padded crops with flips.

Legend: B batch, c channels, h height, w width, p padding, V views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from numpy import ndarray

_BLOCK_BYTES = 1 << 20  # of padded images at a time, so that they stay in the processor's cache


@final
class Identity(BaseModel, frozen=True, extra="forbid"):
    """The image as it is: one view."""

    kind: Literal["identity"] = "identity"

    @property
    def num_views(self) -> int:
        """How many views there are."""
        return 1

    def render(
        self, images: UInt8[ndarray, "B c h w"], views: Int64[ndarray, " B"]
    ) -> UInt8[ndarray, "B c h w"]:
        """``images`` themselves. Raises ValueError for a view other than 0."""
        check_request(images, views, num_views=1, kind=self.kind)
        return images

    def fingerprint_fields(self) -> dict[str, Any]:
        """What the pixels of a pass depend on, as JSON."""
        return self.model_dump(mode="json")


@final
class CropFlip(BaseModel, frozen=True, extra="forbid"):
    """Zero padding, a crop of the original size, and a horizontal flip: (2p+1)² · 2 views.

    View ``((dy · (2p+1)) + dx) · 2 + flip`` (without ``· 2 + flip`` where ``flip`` is false) starts
    dy rows and dx columns into the padded image; the crop at dy = dx = p is the image itself.
    Padding 4 is the standard augmentation of CIFAR (He et al., CVPR 2016, sec. 4.2).
    """

    kind: Literal["crop_flip"] = "crop_flip"
    padding: int = Field(default=4, ge=0, le=256)
    flip: bool = True

    @property
    def num_views(self) -> int:
        """How many views there are."""
        return (2 * self.padding + 1) ** 2 * (2 if self.flip else 1)

    def render(
        self, images: UInt8[ndarray, "B c h w"], views: Int64[ndarray, " B"]
    ) -> UInt8[ndarray, "B c h w"]:
        """Image b's view ``views[b]``. Raises ValueError for a view that does not exist."""
        check_request(images, views, num_views=self.num_views, kind=self.kind)
        crops, flips = np.divmod(views, 2) if self.flip else (views, np.zeros_like(views))
        tops, lefts = np.divmod(crops, 2 * self.padding + 1)
        cropped = _crop(images, tops, lefts, padding=self.padding)
        mirrored = np.flatnonzero(flips)
        cropped[mirrored] = mirror(cropped[mirrored])
        return cropped

    def fingerprint_fields(self) -> dict[str, Any]:
        """What the pixels of a pass depend on, as JSON."""
        return self.model_dump(mode="json")


def check_request(
    images: NDArray[np.uint8], views: NDArray[np.int64], *, num_views: int, kind: str
) -> None:
    """Raise ValueError unless ``images`` are uint8 [B, c, h, w] and ``views`` [B] are in range."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images: {images.dtype} {list(images.shape)} is not uint8 [B, c, h, w]")
    if views.shape != (len(images),) or views.dtype.kind not in "iu":
        raise ValueError(
            f"views: {views.dtype} {list(views.shape)} is not one integer for each of "
            f"{len(images)} images"
        )
    if len(views) and not (views.min() >= 0 and views.max() < num_views):
        wrong = views[(views < 0) | (views >= num_views)][0]
        raise ValueError(f"views: {kind} has views 0..{num_views - 1}, and {wrong} is not one")


def mirror(images: UInt8[ndarray, "*n w"]) -> UInt8[ndarray, "*n w"]:
    """Each row reversed; eight, four or two pixels at a time where the width divides so."""
    for size in (8, 4, 2):
        if images.shape[-1] % size == 0:
            return images.view(f"u{size}")[..., ::-1].byteswap().view(np.uint8)
    return images[..., ::-1]


def _crop(
    images: NDArray[np.uint8],
    tops: NDArray[np.int64],
    lefts: NDArray[np.int64],
    *,
    padding: int,
) -> NDArray[np.uint8]:
    """Crops of the padded images, gathered by rows (elements of w bytes) rather than by pixels."""
    num_images, channels, height, width = images.shape
    full_height, full_width = height + 2 * padding, width + 2 * padding
    image_bytes = channels * full_height * full_width
    block = max(1, min(num_images, _BLOCK_BYTES // image_bytes))
    padded = np.zeros((block, channels, full_height, full_width), np.uint8)
    inner = padded[:, :, padding : padding + height, padding : padding + width]
    row = np.dtype(f"V{width}")
    # An element for every byte that a row may start at: overlapping, which only strides can say.
    starts = np.ndarray((padded.size - width + 1,), row, padded, strides=(1,))
    planes = np.arange(channels, dtype=np.int64) * (full_height * full_width)
    within = np.add.outer(planes, np.arange(height, dtype=np.int64) * full_width).reshape(-1)
    offsets = np.arange(block)[:, None] * image_bytes + within
    firsts = (tops * full_width + lefts)[:, None]
    cropped = np.empty(images.shape, np.uint8)
    rows = cropped.view(row).reshape(num_images, channels * height)
    for begin in range(0, num_images, block):
        size = min(block, num_images - begin)
        inner[:size] = images[begin : begin + size]
        rows[begin : begin + size] = starts[offsets[:size] + firsts[begin : begin + size]]
    return cropped
