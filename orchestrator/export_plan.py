"""What to export of a run, and what is wrong with it, found before any work.

Importing this imports neither torch nor Ray.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, final

from distill.blueprint import MODEL_FILE, Blueprint
from distill.config import Experiment
from distill.datasets import Data, load_data
from distill.loading import ConfigError, load_experiment
from distill.models.catalog import check_installed
from orchestrator.runs import RunFolder

Weights = Literal["last", "best"]

_PACKAGES: Mapping[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
_DEPTH = 4  # of runs below the folder that is searched for near misses


@final
@dataclass(frozen=True, slots=True)
class Export:
    """What to export of a run, and where to; checked."""

    run: RunFolder
    weights: Weights
    formats: tuple[str, ...]
    output: Path
    experiment: Experiment
    blueprint: Blueprint
    data: Data


def plan_export(
    run: Path, *, formats: Sequence[str], weights: Weights, output: Path | None = None
) -> Export:
    """Check an export. Raises ConfigError, one line a mistake.

    ``output`` is by default the folder ``export/WEIGHTS`` of the run.
    """
    folder = _find(run)
    experiment = load_experiment(str(folder.path / "config.yaml"))
    target = folder.path / "export" / weights if output is None else output.expanduser()
    problems = [problem for form in formats for problem in _missing_packages(form)]
    problems += _occupied(target) + _untrained(folder, experiment, weights)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    try:
        blueprint = Blueprint.read(folder.path / MODEL_FILE)
    except ValueError as error:
        raise ConfigError(f"RUN: {error}") from None
    _check_networks(blueprint)
    data = _fitting_data(folder, experiment, blueprint)
    return Export(
        folder, weights, tuple(dict.fromkeys(formats)), target, experiment, blueprint, data
    )


def _find(path: Path) -> RunFolder:
    run = RunFolder(path)
    if (path / "config.yaml").is_file():
        return run
    base, known = _runs_near(path)
    near = get_close_matches(str(path), known, n=2)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif known:
        hint = f"give one of those below '{base}', such as '{known[0]}'"
    else:
        hint = "give the folder of a run, as runs/EXPERIMENT/METHOD-DIGEST/seed-0; train one first"
    raise ConfigError(f"RUN: '{path}' is no run; {hint}")


def _runs_near(path: Path) -> tuple[Path, list[str]]:
    """Runs below the nearest folder that is there, or else below the one above it."""
    base = next(folder for folder in (path, *path.parents) if folder.is_dir())
    for folder in (base, base.parent):
        patterns = ("*/" * depth + "seed-*/config.yaml" for depth in range(_DEPTH))
        known = sorted(str(file.parent) for pattern in patterns for file in folder.glob(pattern))
        if known:
            return folder, known
    return base, []


def _missing_packages(form: str) -> list[str]:
    missing = [name for name in _PACKAGES.get(form, ()) if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    return [f"--format {form}: needs {', '.join(missing)}; pip install 'tutelage[export]'"]


def _occupied(output: Path) -> list[str]:
    if output.is_dir() and any(output.iterdir()):
        return [
            f"--output: '{output}' is not empty; delete it, or give another folder (all formats "
            "of one export are written together: repeat --format)"
        ]
    if output.exists() and not output.is_dir():
        return [f"--output: '{output}' is a file; give a folder"]
    return []


def _untrained(run: RunFolder, experiment: Experiment, weights: Weights) -> list[str]:
    train = f"`tutelage train {run.path / 'config.yaml'}`"
    if not run.checkpoint(weights).is_file():
        done = "is not there any more" if run.finished else "is written after an epoch"
        return [f"RUN: '{run.checkpoint(weights)}' {done}; train the run: {train}"]
    if weights == "best" and not experiment.data.validation:
        return [
            "--weights: no validation data, so no weights are best on it; export the last ones, "
            "or train with data.validation above 0"
        ]
    if not (run.path / MODEL_FILE).is_file():
        return [
            f"RUN: no file '{run.path / MODEL_FILE}', which says what the networks are built from; "
            f"delete result.json, and {train} writes it and trains nothing anew"
        ]
    return []


def _check_networks(blueprint: Blueprint) -> None:
    """The student's is exported; the teachers' are timed beside it, without their weights."""
    networks = {"student": blueprint.student}
    networks |= {f"teacher '{name}'": t.network for name, t in blueprint.teachers.items()}
    problems: list[str] = []
    for who, network in networks.items():
        try:
            check_installed(network.arch)
        except ValueError as error:
            problems.append(f"RUN: {who}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def _fitting_data(run: RunFolder, experiment: Experiment, blueprint: Blueprint) -> Data:
    """The run's data, whose test images files are compared on."""
    where = f"correct data in '{run.path / 'config.yaml'}': files are compared on its test images"
    try:
        data = load_data(experiment.data)
    except ValueError as error:
        raise ConfigError(f"{error}; {where}") from None
    size = blueprint.image_size
    found, wanted = data.test.images.shape[1:], (blueprint.in_channels, size, size)
    if found != wanted:
        raise ConfigError(
            f"data: its images are {list(found)}, the run's networks take {list(wanted)}; {where}"
        )
    return data
