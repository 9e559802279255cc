"""What an experiment says about its data, checked before anything is opened."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, Field, field_validator, model_validator

from distill.models.catalog import suggest
from distill.storage import AnchoredPath, cache_folder
from distill.user_code import is_function

NAMES = (
    "fashion_mnist",
    "fashion_mnist_mini",
    "fashion_mnist_10k",
    "cifar10",
    "cifar100",
    "arrays",
    "image_folder",
)
FUNCTION = "package.module:function"  # stands for all data sets that a user's function gives
_DOWNLOADABLE = frozenset({"fashion_mnist", "fashion_mnist_10k", "cifar10", "cifar100"})
# Which data sets read a field; for the others, setting it is a mistake.
_READERS = {
    "root": _DOWNLOADABLE | {"image_folder"},
    "download": _DOWNLOADABLE,
    "file": frozenset({"arrays"}),
    "image_size": frozenset({"image_folder"}),
    "options": frozenset({FUNCTION}),
}


@final
@dataclass(frozen=True, slots=True)
class DataInfo:
    """What models must fit: classes, channels, and the side of the square images in pixels."""

    num_classes: int
    in_channels: int
    image_size: int
    # In the order of labels; empty where they are known only once the data has been fetched. Data
    # of other names may still be of one shape.
    class_names: tuple[str, ...] = field(default=(), compare=False)


@final
class DataConfig(BaseModel, frozen=True, extra="forbid"):
    """A data set by name, where it lies, and how much of its training data is held out."""

    name: str
    options: dict[str, Any] = {}  # of a user's function
    root: AnchoredPath | None = None  # folder of a named data set or of image_folder
    file: AnchoredPath | None = None  # .npz of arrays
    image_size: int | None = Field(default=None, ge=1, le=4096)  # image_folder's, in pixels
    # Of the data's classes, by name or by number, those that are kept: they become 0, 1, …
    classes: tuple[int | str, ...] | None = None
    validation: float = Field(default=0.1, ge=0, lt=0.5)  # of each class's training samples
    split_seed: int = 0
    download: bool = False
    cache_dir: AnchoredPath | None = None  # default: $TUTELAGE_CACHE, or else ~/.cache/tutelage

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NAMES and not is_function(name):
            near = difflib.get_close_matches(name, NAMES, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            known = ", ".join((*NAMES, FUNCTION))
            raise ValueError(f"unknown data set '{name}'; {hint}data sets: {known}")
        return name

    @field_validator("classes", mode="before")
    @classmethod
    def _a_choice(cls, classes: Any) -> Any:
        if classes is None:
            return None
        if not isinstance(classes, list | tuple) or any(type(c) not in (int, str) for c in classes):
            raise ValueError("should be a list of names or of numbers, as in [cat, dog] or [3, 5]")
        if len(classes) < 2:
            raise ValueError(f"{len(classes)} classes are too few to tell apart; give two or more")
        return tuple(classes)

    @property
    def kind(self) -> str:
        """The data set's name, or what stands for every function's."""
        return self.name if self.name in NAMES else FUNCTION

    @model_validator(mode="after")
    def _fields_fit_the_name(self) -> DataConfig:
        for name, readers in _READERS.items():
            if getattr(self, name) and self.kind not in readers:
                raise ValueError(
                    f"{name}: '{self.name}' does not read it "
                    f"({', '.join(sorted(readers))} would); remove it or correct the name"
                )
        required = {"arrays": ("file",), "image_folder": ("root", "image_size")}
        for name in required.get(self.name, ()):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: '{self.name}' needs it; set data.{name}")
        return self


def kept_classes(config: DataConfig, names: Sequence[str]) -> tuple[int, ...] | None:
    """The labels that the configuration keeps, of classes called ``names``; None: all, as they are.

    Raises ValueError, with near misses, for a class that there is not, or that is given twice.
    """
    if config.classes is None:
        return None
    kept: list[int] = []
    for chosen in config.classes:
        if isinstance(chosen, str) and chosen not in names:
            hint = suggest(chosen, names, label="classes")
            raise ValueError(f"data.classes: '{config.name}' has no class '{chosen}'; {hint}")
        label = names.index(chosen) if isinstance(chosen, str) else chosen
        if not 0 <= label < len(names):
            raise ValueError(
                f"data.classes: '{config.name}' has no class {label}; its {len(names)} classes are "
                f"0..{len(names) - 1}"
            )
        if label in kept:
            raise ValueError(f"data.classes: class {chosen!r} is given twice; give it once")
        kept.append(label)
    return None if kept == list(range(len(names))) else tuple(kept)


def cache_root(config: DataConfig) -> Path:
    """The folder under which decoded arrays and downloads are kept."""
    if config.cache_dir is not None:
        return config.cache_dir
    return cache_folder()


def download_root(config: DataConfig) -> Path:
    """Where torchvision's layout is looked for and downloaded to."""
    if config.root is not None:
        return config.root
    return cache_root(config) / "downloads"
