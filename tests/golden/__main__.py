"""``python -m tests.golden DIRECTORY``: our losses against numbers computed elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden.case import Case
from tests.golden.checks import CHECKS

_TOLERANCE = 1e-8
# The authors' solver is iterative; its weights are right to about seven digits.
_TOLERANCES = {"aekd_logits": 1e-5}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every ``.npz`` of the directory named; 0 if all agree, 1 if not, 2 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args(arguments).directory
    paths = sorted(directory.glob("*.npz"))
    if not paths:
        print(f"no .npz file in '{directory}'", file=sys.stderr)
        return 2
    failures = [failure for path in paths for failure in _failures_of(path)]
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{len(paths)} cases, {len(failures)} failures")
    return 1 if failures else 0


def check_name(stem: str) -> str | None:
    """The longest check that a file's stem begins with, up to its end or to a non-letter."""
    known = [
        name
        for name in CHECKS
        if stem.startswith(name) and not stem.removeprefix(name)[:1].isalpha()
    ]
    return max(known, key=len, default=None)


def _failures_of(path: Path) -> list[str]:
    name = check_name(path.stem)
    if name is None:
        return [f"{path.stem}: no check for this case; checks: {', '.join(CHECKS)}"]
    tolerance = _TOLERANCES.get(name, _TOLERANCE)
    # A file that a check cannot digest is one failure; the other files are still checked.
    try:
        case = Case(path)
        errors = case.errors(CHECKS[name](case))
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        return [f"{path.stem}: {type(error).__name__}: {error}"]
    for array, error in errors.items():
        print(f"{path.stem:24} {array:40} {error:.1e}")
    # Not "error > tolerance": a NaN must fail.
    wrong = {array: error for array, error in errors.items() if not error <= tolerance}
    return [
        *(f"{path.stem}: {array} is off by {error:.1e}" for array, error in wrong.items()),
        *(f"{path.stem}: {array} was not compared" for array in case.overlooked()),
        *([] if errors else [f"{path.stem}: nothing was compared"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
