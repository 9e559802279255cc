"""From a configuration to data: one table of data sets, and what all of them share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, final

import numpy as np
from numpy.typing import NDArray

from distill.datasets import arrays, cifar, fashion_mnist, function, image_folder
from distill.datasets.cache import Source, open_cached
from distill.datasets.config import (
    FUNCTION,
    DataConfig,
    DataInfo,
    cache_root,
    kept_classes,
)
from distill.datasets.splits import Split, hold_out, stratified_rows, take_rows

if TYPE_CHECKING:
    from jaxtyping import Float64
    from numpy import ndarray


class _DataSet(Protocol):
    """What a module of this package offers for the names that it serves."""

    def describe(self, config: DataConfig, /) -> DataInfo: ...

    def open_source(self, config: DataConfig, /) -> Source: ...


DATA_SETS: dict[str, _DataSet] = {
    "fashion_mnist": fashion_mnist,
    "fashion_mnist_mini": fashion_mnist,
    "fashion_mnist_10k": fashion_mnist,
    "cifar10": cifar,
    "cifar100": cifar,
    "arrays": arrays,
    "image_folder": image_folder,
    FUNCTION: function,
}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A data set, opened. Its images are mapped from disk, never read as a whole."""

    train: Split
    validation: Split  # cut from the training data; empty if the configuration says 0
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    mean: Float64[ndarray, " c"]  # of the training split's pixels, scaled to 0..1
    std: Float64[ndarray, " c"]
    fingerprint: str  # sha256 hex of the three splits' contents; paths do not enter


def describe(config: DataConfig) -> DataInfo:
    """Classes, channels and size, without decoding an image.

    Raises ValueError naming the field and the fix for data that is not there or does not fit.
    """
    info = DATA_SETS[config.kind].describe(config)
    if config.classes is None:
        return info
    if not info.class_names:  # they are in files still to be fetched; load_data looks at them
        return replace(info, num_classes=len(config.classes))
    kept = kept_classes(config, info.class_names)
    if kept is None:
        return info
    names = tuple(info.class_names[label] for label in kept)
    return replace(info, num_classes=len(names), class_names=names)


def load_data(config: DataConfig) -> Data:
    """Open the data set, decoding it into the array cache if it is not there yet.

    Raises ValueError naming the field and the fix for data that is not there or is damaged.
    """
    source = DATA_SETS[config.kind].open_source(config)
    names = source.class_names
    kept_labels = kept_classes(config, names)
    stored = open_cached(source, cache_root(config) / "data")
    train, test = stored["train"], stored["test"]
    rows = np.arange(len(train.labels))
    if source.subset is not None:
        rows = stratified_rows(train.labels, per_class=source.subset)
    kept, held = hold_out(train.labels, rows, fraction=config.validation, seed=config.split_seed)
    if kept_labels is not None:
        # Cut after the split: what is held out of a class does not depend on the other classes.
        names = tuple(names[label] for label in kept_labels)
    splits = [
        take_rows(part.images, part.labels, chosen, digest=part.digest, classes=kept_labels)
        for part, chosen in ((train, kept), (train, held), (test, np.arange(len(test.labels))))
    ]
    for part, split in (("training", splits[0]), ("test", splits[2])):
        if not len(split):
            raise ValueError(
                f"data.classes: '{config.name}' has no {part} image of {', '.join(names)}; choose "
                "classes that have some"
            )
    mean, std = _mean_and_std(train.moments[splits[0].rows], pixels=train.images[0, 0].size)
    return Data(
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        num_classes=len(names),
        class_names=names,
        mean=mean,
        std=std,
        fingerprint=hashlib.sha256("".join(s.fingerprint for s in splits).encode()).hexdigest(),
    )


def _mean_and_std(
    moments: NDArray[np.int64], *, pixels: int
) -> tuple[Float64[ndarray, " c"], Float64[ndarray, " c"]]:
    total, squares = moments.sum(axis=0).astype(np.float64) / (len(moments) * pixels)
    return total / 255, np.sqrt(np.maximum(squares - total**2, 0)) / 255
