"""Makes fashion_mnist_mini.npz, the embedded subset, from the whole of Fashion-MNIST.

``python -m distill.data.make_fashion_mnist_mini [--source FOLDER] [--output FILE]``; the source is
a folder of *-ubyte.gz files, by default that of Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.datasets.fashion_mnist import DEBIAN, MINI, read_folder
from distill.datasets.splits import stratified_rows

PER_CLASS = {"train": 500, "test": 100}


def select(source: Path) -> dict[str, NDArray[np.uint8]]:
    """The arrays of the subset: images [N, 28, 28] and labels [N] of both parts."""
    arrays: dict[str, NDArray[np.uint8]] = {}
    for name, part in read_folder(source).items():
        rows = stratified_rows(part.labels, per_class=PER_CLASS[name])
        images = np.concatenate([chunk[:, 0] for chunk in part.chunks()])
        arrays[f"{name}_images"] = images[rows]
        arrays[f"{name}_labels"] = part.labels[rows].astype(np.uint8)
    return arrays


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=DEBIAN)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name(MINI))
    arguments = parser.parse_args()
    np.savez_compressed(arguments.output, allow_pickle=False, **select(arguments.source))


if __name__ == "__main__":
    main()
