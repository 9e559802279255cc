"""Folders of images, a folder a class: root/train/CLASS/* and root/test/CLASS/* (or root/val).

Images are decoded once: the shorter side is resized (bilinear, antialiased), the centre cropped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distill.datasets.cache import Part, Source, stamp_files
from distill.datasets.config import DataConfig, DataInfo

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Those of SUFFIXES, and what often bears their names. Pillow's other readers stay out: some run
# programs (EPS runs Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF")
_MAX_PIXELS = 89_478_485  # of an image, Pillow's own bound: 256 MiB of RGB
_CHUNK = 64  # images decoded by a few threads, then written together


def describe(config: DataConfig) -> DataInfo:
    """From the class folders and ``image_size``; no image is opened.

    Raises ValueError naming a folder that is missing or empty, or classes that differ by part.
    """
    root, size = _settings(config)
    names = _classes(_folders(root))
    return DataInfo(len(names), in_channels=3, image_size=size, class_names=names)


def open_source(config: DataConfig) -> Source:
    """The folders' files, listed in a fixed order: classes by name, then files by name."""
    root, size = _settings(config)
    folders = _folders(root)
    classes = _classes(folders)
    files: dict[str, list[Path]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for part, folder in folders.items():
        by_class = [_images(folder / name) for name in classes]
        files[part] = [file for members in by_class for file in members]
        labels[part] = np.repeat(np.arange(len(classes)), [len(m) for m in by_class])
    return Source(
        kind="image_folder",
        class_names=classes,
        stamp=stamp_files(files["train"] + files["test"], image_size=size),
        read=partial(_read, files, labels, size),
    )


def decode(file: Path, *, size: int) -> NDArray[np.uint8]:
    """An image file as RGB, uint8 [3, size, size]. Raises ValueError naming an unreadable file."""
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise ValueError(f"{opened.width} × {opened.height} pixels are too many")
            return _fitted(opened.convert("RGB"), size)
    except Exception as error:  # a damaged or hostile image may fail in any way
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"data.root: cannot read image '{file}' ({reason}); repair or remove it"
        ) from error


def _fitted(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The middle of an image whose shorter side is resized to ``size``."""
    from PIL import Image

    shorter = min(image.size)
    width, height = (side * size // shorter for side in image.size)
    if width * height > _MAX_PIXELS:  # a line of a thousand pixels becomes a large picture
        raise ValueError(f"its sides, {image.width} and {image.height} pixels, differ too much")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    cropped = image.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1))


def _read(
    files: Mapping[str, Sequence[Path]], labels: Mapping[str, NDArray[np.int64]], size: int
) -> Mapping[str, Part]:
    return {
        part: Part((3, size, size), labels[part], partial(_chunks, part, files[part], size))
        for part in files
    }


def _chunks(part: str, files: Sequence[Path], size: int) -> Iterator[NDArray[np.uint8]]:
    with (
        _progress(f"decoding {len(files)} {part} images") as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
    ):
        for begin in range(0, len(files), _CHUNK):
            decoded = list(threads.map(partial(decode, size=size), files[begin : begin + _CHUNK]))
            yield np.stack(decoded)
            advance(len(decoded) / len(files))


@contextmanager
def _progress(title: str) -> Generator[Callable[[float], None]]:
    """A bar on a terminal; a line elsewhere, where a bar would fill a log."""
    if not sys.stderr.isatty():
        print(title, file=sys.stderr)
        yield lambda _share: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.advance(task, share)


def _settings(config: DataConfig) -> tuple[Path, int]:
    assert config.root is not None
    assert config.image_size is not None
    return config.root, config.image_size


def _folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise ValueError(f"data.root: no folder '{root}'; correct the path")
    test = root / "test" if (root / "test").is_dir() else root / "val"
    for folder, wanted in ((root / "train", "train"), (test, "test (or val)")):
        if not folder.is_dir():
            raise ValueError(
                f"data.root: '{root}' has no folder {wanted}; lay images out as "
                "train/CLASS/*.png and test/CLASS/*.png"
            )
    return {"train": root / "train", "test": test}


def _classes(folders: Mapping[str, Path]) -> tuple[str, ...]:
    found = {part: _subfolders(folder) for part, folder in folders.items()}
    if found["train"] != found["test"]:
        only = sorted(set(found["train"]) ^ set(found["test"]))
        raise ValueError(
            f"data.root: '{folders['train']}' and '{folders['test']}' differ in class folders: "
            f"{', '.join(only)} is in one of them only; give both the same"
        )
    if not found["train"]:
        raise ValueError(f"data.root: '{folders['train']}' has no class folders")
    for folder in folders.values():
        for name in found["train"]:
            if not any(_is_image(entry) for entry in os.scandir(folder / name)):
                raise ValueError(
                    f"data.root: '{folder / name}' has no images ({', '.join(SUFFIXES)}); "
                    "add some or remove the class"
                )
    return tuple(found["train"])


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    entries = [entry for entry in os.scandir(folder) if _is_image(entry)]
    for entry in entries:
        if not entry.is_file():  # a pipe would never end
            raise ValueError(f"data.root: '{entry.path}' is no file; repair or remove it")
    return sorted(Path(entry.path) for entry in entries)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
