"""What an experiment says about its data, checked before anything is opened."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pydantic import BaseModel, Field, field_validator, model_validator

from distill.storage import cache_folder

NAMES = (
    "fashion_mnist",
    "fashion_mnist_mini",
    "fashion_mnist_10k",
    "cifar10",
    "cifar100",
    "arrays",
    "image_folder",
)
_DOWNLOADABLE = frozenset({"fashion_mnist", "fashion_mnist_10k", "cifar10", "cifar100"})
# Which data sets read a field; for the others, setting it is a mistake.
_READERS = {
    "root": _DOWNLOADABLE | {"image_folder"},
    "download": _DOWNLOADABLE,
    "file": frozenset({"arrays"}),
    "image_size": frozenset({"image_folder"}),
}


@final
@dataclass(frozen=True, slots=True)
class DataInfo:
    """What models must fit: classes, channels, and the side of the square images in pixels."""

    num_classes: int
    in_channels: int
    image_size: int


@final
class DataConfig(BaseModel, frozen=True, extra="forbid"):
    """A data set by name, where it lies, and how much of its training data is held out."""

    name: str
    root: Path | None = None  # folder of a named data set or of image_folder
    file: Path | None = None  # .npz of arrays
    image_size: int | None = Field(default=None, ge=1, le=4096)  # image_folder's, in pixels
    validation: float = Field(default=0.1, ge=0, lt=0.5)  # of each class's training samples
    split_seed: int = 0
    download: bool = False
    cache_dir: Path | None = None  # default: $TUTELAGE_CACHE, or else ~/.cache/tutelage

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(f"unknown data set '{name}'; {hint}data sets: {', '.join(NAMES)}")
        return name

    @model_validator(mode="after")
    def _fields_fit_the_name(self) -> DataConfig:
        for field, readers in _READERS.items():
            if getattr(self, field) and self.name not in readers:
                raise ValueError(
                    f"{field}: '{self.name}' does not read it "
                    f"({', '.join(sorted(readers))} would); remove it or correct the name"
                )
        required = {"arrays": ("file",), "image_folder": ("root", "image_size")}
        for field in required.get(self.name, ()):
            if getattr(self, field) is None:
                raise ValueError(f"{field}: '{self.name}' needs it; set data.{field}")
        return self


def cache_root(config: DataConfig) -> Path:
    """The folder under which decoded arrays and downloads are kept."""
    if config.cache_dir is not None:
        return config.cache_dir.expanduser()
    return cache_folder()


def download_root(config: DataConfig) -> Path:
    """Where torchvision's layout is looked for and downloaded to."""
    if config.root is not None:
        return config.root.expanduser()
    return cache_root(config) / "downloads"
