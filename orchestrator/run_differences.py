"""What sets runs apart: their settings, those of them that differ, and names made of these.

A run's settings are its configuration, flat: dotted paths to scalars, as ``method.temperature``.
What only says where files lie is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Scalar = bool | int | float | str
Settings = Mapping[str, Scalar]

METHOD = "method.name"
SEED = "seeds.0"  # a run has one
# Of other runs, or of where files lie.
_NOT_COMPARED = ("baselines", "output", "signals.root", "signals.mirror", "signals.mirror_bytes")
_LABELS = {"name": "experiment", SEED: "seed"}
_LONGEST_NAME = 200  # bytes; a folder's name has at most 255
_LONGEST_VALUE = 40


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """``config`` as dotted paths to scalars: ``teachers.0.name``. What is None is left out."""
    flat: dict[str, Scalar] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat |= flatten({str(place): item for place, item in enumerate(value)}, f"{path}.")
        elif isinstance(value, bool | int | float | str):
            flat[path] = value
        elif value is not None:
            flat[path] = str(value)
    return flat


def settings_of(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """A run's resolved configuration, flat; ``teachers`` names them all."""
    hidden = tuple(f"{path}." for path in _NOT_COMPARED)
    flat = {
        path: value
        for path, value in flatten(config).items()
        if path not in _NOT_COMPARED and not path.startswith(hidden)
    }
    names = [value for path, value in flat.items() if re.fullmatch(r"teachers\.\d+\.name", path)]
    return flat | ({"teachers": ", ".join(map(str, names))} if names else {})


def differing(runs: Iterable[Settings], *, across_methods: bool = False) -> list[str]:
    """The paths whose values differ between runs, in the order of the configuration.

    Runs that lack a path differ from those that have it only where both are of one kind: that
    ``adamw`` has no ``momentum`` is not worth telling. A method's and a teacher's own settings are
    compared among runs of the same method or teacher; with ``across_methods``, a setting that
    several methods have is compared among them, too.
    """
    runs = list(runs)
    owned = ("teachers.",) if across_methods else ("teachers.", "method.")
    found: list[str] = []
    for path in dict.fromkeys(path for run in runs for path in run):
        if re.fullmatch(r"teachers\.\d+\.name", path):
            continue  # ``teachers`` tells
        alike: defaultdict[tuple[Scalar | None, ...], set[Scalar | None]] = defaultdict(set)
        tags = _tags(path)
        for run in runs:
            alike[tuple(run.get(tag) for tag in tags)].add(run.get(path))
        differs = any(len(values) > 1 for values in alike.values())
        if not differs and not path.startswith(owned):
            differs = len(set[Scalar | None]().union(*alike.values()) - {None}) > 1
        if differs:
            found.append(path)
    return found


def _tags(path: str) -> tuple[str, ...]:
    """Where the mappings that hold a path say what they are, by ``name`` or ``kind``."""
    parts = path.split(".")
    holders = (".".join(parts[:end]) for end in range(1, len(parts)))
    tags = (f"{holder}.{tag}" for holder in holders for tag in ("name", "kind"))
    return tuple(tag for tag in tags if tag != path)


def labels(paths: Iterable[str]) -> dict[str, str]:
    """By path, the shortest ending that no other path has: ``temperature``, ``optimizer``."""
    whole = {path: _LABELS.get(path, re.sub(r"\.(name|kind)$", "", path)) for path in paths}
    return {path: _shortest(text, [*whole.values()]) for path, text in whole.items()}


def _shortest(text: str, texts: Sequence[str]) -> str:
    parts = text.split(".")
    for start in range(len(parts) - 1, 0, -1):
        ending = ".".join(parts[start:])
        taken = sum(other == ending or other.endswith(f".{ending}") for other in texts)
        if taken == 1 and not parts[start].isdigit():
            return ending
    return text


def run_names(runs: Mapping[str, Settings]) -> dict[str, str]:
    """A name for each run: its method, and what differs among them: ``kd temperature=4 seed=0``.

    ``runs`` are settings by an id of each run's own; it stands in for a name too long for a folder,
    and tells runs apart that their settings do not.
    """
    paths = sorted(differing(runs.values()), key=_place)
    shown = {path: label for path, label in labels(paths).items() if path != METHOD}
    by_method: defaultdict[Scalar | None, list[Settings]] = defaultdict(list)
    for run in runs.values():
        by_method[run.get(METHOD)].append(run)
    own = {method: differing(members) for method, members in by_method.items()}
    names: dict[str, str] = {}
    for key, run in runs.items():
        told = own[run.get(METHOD)]
        names[key] = _name(
            run, {p: shown[p] for p in shown if p in told or not p.startswith("method.")}
        )
    names = {k: name if len(name.encode()) <= _LONGEST_NAME else k for k, name in names.items()}
    count = Counter(names.values())
    return {key: name if count[name] == 1 else f"{name} {key}" for key, name in names.items()}


def _place(path: str) -> tuple[bool, bool]:
    """Where a path stands in a name: the method's settings first, the seed last."""
    return path == SEED, not path.startswith("method.")


def _name(run: Settings, shown: Mapping[str, str]) -> str:
    told = [f"{label}={_text(run[path])}" for path, label in shown.items() if path in run]
    # A slash would make folders of a name.
    return re.sub(r"[/\\\x00-\x1f]", ":", " ".join([str(run.get(METHOD, "run")), *told]))


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
