"""What a user's arrays must be like, in a file or from a function.

Legend: N samples, c channels, h height, w width; images are square. ``where`` opens a message: the
field, and what it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

MEMBERS = ("train_images", "train_labels", "test_images", "test_labels")
CLASS_NAMES = "class_names"
_MAX_CLASSES = 100_000

ImageShape = tuple[int, int, int, int]  # N, c, h, w


def image_shape(
    shape: tuple[int, ...], dtype: np.dtype[Any], member: str, *, where: str
) -> ImageShape:
    """[N, c, h, w], from whichever layout ``shape`` shows. Raises ValueError for others."""
    is_said = f"{where}: {member} is {dtype} {list(shape)}"
    if dtype != np.uint8:
        raise ValueError(f"{is_said}; store whole numbers 0..255 as uint8")
    if len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(
            f"{is_said}; store [N, h, w], [N, h, w, c] or [N, c, h, w], none of them 0"
        )
    if len(shape) == 3:
        shape = (shape[0], 1, shape[1], shape[2])
    first, last = shape[2] == shape[3], shape[1] == shape[2]
    if first and last:
        raise ValueError(f"{is_said}: channels first or last? store [N, h, w] or another size")
    if not (first or last):
        raise ValueError(f"{is_said}; images must be square: crop or pad them")
    count, channels, size = (
        (shape[0], shape[1], shape[2]) if first else (shape[0], shape[3], shape[1])
    )
    return count, channels, size, size


def check_alike(train: ImageShape, test: ImageShape, *, where: str) -> None:
    """Raise ValueError unless both parts' images have one shape."""
    if train[1:] != test[1:]:
        raise ValueError(
            f"{where}: train_images are {list(train[1:])} (c, h, w) and "
            f"test_images {list(test[1:])}; give both the same shape"
        )


def channels_first(images: NDArray[np.uint8], shape: ImageShape) -> UInt8[ndarray, "N c h w"]:
    """The same images, laid out as ``shape`` says; a view where that is possible."""
    if images.ndim == 4 and images.shape != shape:
        images = images.transpose(0, 3, 1, 2)
    return images.reshape(shape)


def numbered(labels: NDArray[Any], *, where: str) -> tuple[str, ...]:
    """Names of classes that have none: the numbers up to the largest training label."""
    if labels.dtype.kind not in "iu" or not labels.size:
        raise ValueError(f"{where}: train_labels is not a list of integers")
    num_classes = int(labels.max()) + 1
    if num_classes > _MAX_CLASSES:
        raise ValueError(
            f"{where}: train_labels holds {num_classes - 1}, and there are at most "
            f"{_MAX_CLASSES:,} classes; number them from 0"
        )
    return tuple(str(label) for label in range(num_classes))


def check_labels(
    labels: NDArray[Any], part: str, *, where: str, num_images: int, num_classes: int
) -> None:
    """Raise ValueError unless every image of ``part`` has a label of 0..``num_classes`` - 1."""
    if labels.dtype.kind not in "iu" or labels.shape != (num_images,):
        raise ValueError(
            f"{where}: {part}_labels is {labels.dtype} {list(labels.shape)}, "
            f"not one integer for each of {num_images} images"
        )
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"{where}: {part}_labels holds {wrong[0]}, and the {num_classes} classes "
            f"are 0..{num_classes - 1}; correct it or add class_names"
        )
