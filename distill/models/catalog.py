"""Every architecture that is built by name: its family, its taps, its published classifier.

Importing this module does not import torch: a configuration is checked in milliseconds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.util import find_spec
from types import MappingProxyType
from typing import final

TORCHVISION = "torchvision/"
TIMM = "timm/"
POOLED = "pooled"
# The map whose mean is ``pooled``, in networks where that is not the last stage's.
FINAL = "final"
# package.module:function
USER_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
# Names of timm may end in the tag of pretrained weights, as in resnet18.a1_in1k. No 'hf-hub:': that
# would be fetched.
_TIMM_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)
_NEAR = 0.6  # difflib's own threshold for a close match
_OTHERS = "torchvision/NAME, timm/NAME, package.module:function"


@final
@dataclass(frozen=True, slots=True)
class Architecture:
    """A network of the zoo. ``options`` lists the values that each of its options may take."""

    name: str
    family: str  # the module of distill.models that builds it
    taps: tuple[str, ...]  # from the image to the classifier
    classifier: str  # the classifier's weight [classes, c] in the published state dict
    options: Mapping[str, tuple[str, ...]]


def _stages(count: int, *, final: bool) -> tuple[str, ...]:
    stages = (f"stage{index}" for index in range(1, count + 1))
    return ("stem", *stages, *([FINAL] if final else []), POOLED)


_RESNETS = (
    *(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *(f"resnet{depth}x4" for depth in (8, 20, 32)),
)
_FAMILIES: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    ("resnet", _RESNETS, 3, "fc.weight"),
    ("wrn", ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"), 3, "fc.weight"),
    ("vgg", tuple(f"vgg{depth}" for depth in (8, 11, 13, 16, 19)), 4, "classifier.weight"),
    ("mobilenetv2", ("mobilenetv2",), 4, "classifier.0.weight"),
    ("shufflenetv1", ("shufflenetv1",), 3, "linear.weight"),
    ("shufflenetv2", ("shufflenetv2",), 3, "linear.weight"),
    ("dscnn", ("dscnn_xs", "dscnn_s", "dscnn_m", "dscnn_l"), 3, "fc.weight"),
    ("cnn", ("cnn_xxs", "cnn_xs", "cnn_s", "cnn_m"), 3, "fc.weight"),
)
_WITH_FINAL = ("wrn", "mobilenetv2", "shufflenetv2")
_OPTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {"cnn": {"norm": ("batch", "none")}}
_CATALOG: Mapping[str, Architecture] = MappingProxyType(
    {
        name: Architecture(
            name,
            family,
            _stages(count, final=family in _WITH_FINAL),
            classifier,
            _OPTIONS.get(family, {}),
        )
        for family, names, count, classifier in _FAMILIES
        for name in names
    }
)


def architectures() -> tuple[str, ...]:
    """The names of the zoo's networks, family by family."""
    return tuple(_CATALOG)


def find(arch: str) -> Architecture | None:
    """The zoo's entry for ``arch``; None for torchvision's, timm's and users' networks."""
    return _CATALOG.get(arch)


def taps_of(arch: str) -> tuple[str, ...] | None:
    """The taps of ``arch`` in order, or None where only building the network tells."""
    entry = find(arch)
    return entry.taps if entry else None


def check_architecture(arch: str) -> None:
    """Raise ValueError, with near misses, unless ``arch`` names something that could be built.

    Whether torchvision, timm or a user's module has the name behind a well-formed
    ``torchvision/NAME``, ``timm/NAME`` or ``package.module:function`` shows when the network is
    built: looking takes torch's import.
    """
    if arch in _CATALOG or USER_FUNCTION.fullmatch(arch):
        return
    if arch.startswith(TORCHVISION) and arch.removeprefix(TORCHVISION).isidentifier():
        return
    if arch.startswith(TIMM) and _TIMM_NAME.fullmatch(arch.removeprefix(TIMM)):
        return
    hint = suggest(arch, _CATALOG, label="architectures")
    raise ValueError(f"unknown architecture '{arch}'; {hint} Others: {_OTHERS}")


def check_installed(arch: str) -> None:
    """Raise ValueError where ``arch`` is of a package that is not installed, or not found.

    Nothing is imported: of a user's package only the outermost folder or file is looked for.
    """
    if arch.startswith(TIMM) and find_spec("timm") is None:
        raise ValueError(
            f"'{arch}' needs timm, which is not installed; pip install 'tutelage[timm]'"
        )
    if USER_FUNCTION.fullmatch(arch):
        package, *_ = re.split(r"[.:]", arch)
        if package not in sys.modules and find_spec(package) is None:
            raise ValueError(
                f"'{arch}': there is no module '{package}'; install it or put its folder on "
                "PYTHONPATH"
            )


def check_taps(arch: str, taps: Iterable[str]) -> None:
    """Raise ValueError, with near misses, for a tap that a network of the zoo does not have."""
    known = taps_of(arch)
    for tap in taps if known is not None else ():
        if tap not in (known or ()):
            hint = suggest(tap, known or (), label="taps")
            raise ValueError(f"'{arch}' has no tap '{tap}'; {hint}")


def check_options(arch: str, options: Mapping[str, object]) -> None:
    """Raise ValueError for an option, or a value of one, that a network of the zoo does not take.

    torchvision's, timm's and users' functions check their own options when they are called.
    """
    entry = find(arch)
    if entry is None:
        return
    for name, value in options.items():
        if name not in entry.options:
            takes = suggest(name, entry.options, label="options") if entry.options else "drop it"
            raise ValueError(f"'{arch}' takes no option '{name}'; {takes}")
        if value not in entry.options[name]:
            values = ", ".join(f"'{choice}'" for choice in entry.options[name])
            raise ValueError(f"option '{name}' of '{arch}' is {value!r}; choose from {values}")


def suggest(text: str, known: Iterable[str], *, label: str) -> str:
    """A hint for a misspelt name: its near misses, or every known name if nothing is near."""
    names = list(known)
    nearness = {name: _nearness(text, name) for name in names}
    ranked = sorted(names, key=lambda name: nearness[name], reverse=True)
    near = [name for name in ranked if nearness[name][0] >= _NEAR][:3]
    if near:
        return "did you mean " + ", ".join(f"'{name}'" for name in near) + "?"
    return f"{label}: {', '.join(names)}."


def _nearness(text: str, name: str) -> tuple[float, int]:
    """difflib's ratio, and of names equally near first the one with more in one piece.

    So that 'resnet21' is taken for 'resnet20' and not for 'resnet32', as difflib alone would.
    """
    matcher = SequenceMatcher(None, text, name)
    return matcher.ratio(), matcher.find_longest_match().size
