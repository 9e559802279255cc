"""Whether what is installed is what this package declares that it needs."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.findings import Finding, missing, note, well

PACKAGE = "tutelage"
# What each of the optional groups is for; `dev` is ours.
EXTRAS = {
    "s3": "records at s3:// URLs",
    "timm": "`arch: timm/NAME`",
    "optuna": "`tune --search optuna`",
    "export": "`export --format onnx`",
}
# Named in the answer when all is well: those whose version a question is most often about.
_SHOWN = ("torch", "torchvision", "ray", "pyarrow", "pandas", "tensorboard")


def packages() -> Iterator[Finding]:
    """Python's version and every declared requirement; what is optional is noted."""
    try:
        declared = metadata.metadata(PACKAGE)
        requirements = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield missing(
            f"{PACKAGE} runs from its source and is not installed: Ray's workers on other nodes "
            "would not find it",
            "pip install -e .  (in the folder of pyproject.toml)",
        )
        return
    python, wanted = platform.python_version(), declared["Requires-Python"]
    if python in SpecifierSet(wanted):
        yield well(f"Python {python}, {PACKAGE} {declared['Version']}")
    else:
        yield missing(f"Python {python}, and {PACKAGE} needs {wanted}", "install another Python")
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate()]
    unmet = [one for one in needed if not is_met(one)]
    for one in unmet:
        yield missing(_shortcoming(one), _installing(f"{one.name}{one.specifier}"))
    if not unmet:
        yield well(", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN))
    for extra, use in EXTRAS.items():
        of_extra = [
            one for one in requirements if one.marker and one.marker.evaluate({"extra": extra})
        ]
        lacking = [one for one in of_extra if one not in needed and not is_met(one)]
        if lacking:
            shown = "; ".join(_shortcoming(one) for one in lacking)
            yield note(f"{use} cannot be used: {shown}", _installing(f"{PACKAGE}[{extra}]"))
        else:
            yield well(f"{use} can be used")


def is_met(requirement: Requirement) -> bool:
    """Whether an installed version satisfies a requirement; of its extras nothing is asked."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _shortcoming(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    return f"{requirement.name} is {version}, not {requirement.specifier}"


def _installing(what: str) -> str:
    return f"pip install {shlex.quote(what)}"
