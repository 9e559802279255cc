"""Writers of tiny data sets in the formats of real ones."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

GENERATOR = np.random.default_rng(0)


def random_images(*shape: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def write_arrays(file: Path, **changes: object) -> Path:
    arrays = {
        "train_images": np.arange(40 * 6 * 6, dtype=np.uint32).reshape(40, 6, 6).astype(np.uint8),
        "train_labels": np.arange(40) % 4,
        "test_images": np.arange(8 * 6 * 6, dtype=np.uint32).reshape(8, 6, 6).astype(np.uint8),
        "test_labels": np.arange(8) % 4,
    }
    arrays |= changes
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return file


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def write_fashion_mnist(folder: Path, *, gzipped: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    images, labels = random_images(30, 28, 28), np.arange(30, dtype=np.uint8) % 10
    for prefix, size in (("train", 30), ("t10k", 20)):
        for stem, array in (("images-idx3", images[:size]), ("labels-idx1", labels[:size])):
            file, content = folder / f"{prefix}-{stem}-ubyte", idx(array)
            if gzipped:
                file, content = file.with_name(f"{file.name}.gz"), gzip.compress(content)
            file.write_bytes(content)
    return {"images": images, "labels": labels}


def write_cifar(root: Path, name: str, *, num_images: int = 20) -> np.ndarray:
    """Tiny files as the authors' are: protocol 2, bytes as Python 3 writes them for Python 2."""
    if name == "cifar10":
        folder, key, num_classes = root / "cifar-10-batches-py", b"labels", 10
        files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        meta, names = "batches.meta", b"label_names"
    else:
        folder, key, num_classes = root / "cifar-100-python", b"fine_labels", 100
        files, meta, names = ["train", "test"], "meta", b"fine_label_names"
    folder.mkdir(parents=True)
    images = random_images(len(files), num_images, 3072)
    labels = [i % num_classes for i in range(num_images)]
    for file, data in zip(files, images, strict=True):
        content = {b"data": data, key: labels, b"batch_label": b"some batch"}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    content = {names: [f"class {i}" for i in range(num_classes)]}
    (folder / meta).write_bytes(pickle.dumps(content, protocol=2))
    return images


def write_folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), test: str = "test"):
    for part, count in (("train", 5), (test, 2)):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                colour = np.full((12, 16, 3), 40 * label + 10 * i, np.uint8)
                Image.fromarray(colour).save(root / part / name / f"{i}.png")
    return root
