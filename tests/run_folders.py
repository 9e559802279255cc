"""Synthetic run folders, written through ``RunFolder`` itself: no training, any size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.runs import RunFolder
from orchestrator.trial_files import Note, trial_run

TEACHERS = {"big": {"accuracy": 0.9, "parameters": 1_730_000}}
CURVE = (0.5, 0.6)  # validation accuracy by epoch


def make_run(
    root: Path,
    method: str,
    seed: int,
    *,
    accuracy: float | None = None,
    digest: str = "d1",
    experiment: str = "toy",
    curve: Sequence[float] = CURVE,
    settings: Mapping[str, Any] | None = None,
    **results: Any,
) -> RunFolder:
    """A run of two epochs; finished if it has an ``accuracy``. ``settings`` are its method's."""
    run = RunFolder.at(root, experiment=experiment, method=method, digest=digest, seed=seed)
    fill(run, {"name": method, **(settings or {})}, curve)
    if accuracy is not None:
        finish(run, test_accuracy=accuracy, test_accuracy_best=accuracy + 0.01, **results)
    return run


def make_runs(root: Path, accuracies: Mapping[str, Sequence[float]]) -> list[RunFolder]:
    """A run for each method and accuracy, with seeds from 0."""
    return [
        make_run(root, method, seed, accuracy=value)
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def fill(run: RunFolder, method: Mapping[str, Any], curve: Sequence[float]) -> None:
    """A run's configuration, and its metrics so far."""
    name, seed = run.experiment_folder.name, run.identity["seed"]
    teachers = [{"name": "big", "arch": "resnet8"}]
    run.create({"name": name, "teachers": teachers, "method": dict(method), "seeds": [seed]})
    rows = [{"epoch": i, "accuracy/validation": value} for i, value in enumerate(curve)]
    pd.DataFrame(rows).to_parquet(run.path / "metrics.parquet")


def finish(run: RunFolder, **results: Any) -> None:
    """File a result: ``results``, and what all runs have in common."""
    counts = {"epochs": 2, "best_epoch": 1, "parameters": 1000, "workers": 1}
    times = {"seconds": 10.0, "seconds_waiting": 1.0, "signal_bytes": 7_000_000}
    rest = {"validation_accuracy": max(CURVE), "teachers": TEACHERS}
    nothing = {"test_accuracy": math.nan, "test_accuracy_best": math.nan}
    run.write_result(run.identity | counts | times | rest | nothing | results)


def make_trial(
    root: Path,
    number: int,
    values: Mapping[str, Any],
    *,
    score: float | None,
    ended: str = "",
    experiment: str = "toy",
    space: str = "kd",
) -> RunFolder:
    """A trial of a sweep over a method's settings; without a ``score`` it has failed."""
    folder = root / experiment / f"tune-{space}"
    run = trial_run(folder, method="kd", number=number, seed=0)
    settings = {path.removeprefix("method."): value for path, value in values.items()}
    fill(run, {"name": "kd"} | settings, [0.1, 0.2 if score is None else score])
    if score is None:
        Note(number, dict(values), ended="failed", reason="loss is not finite").write(run)
    else:
        Note(number, dict(values), ended=ended).write(run)
        if not ended:
            finish(run, validation_accuracy=score)
    return run


def weigh(run: RunFolder, weights: Mapping[str, Sequence[float]], *, kind: str) -> None:
    """File teachers' weights by epoch, the same for each of two classes of 1 and 3 samples."""
    rows = [
        {"epoch": i, "kind": kind, "teacher": name, "class": c, "class_name": str(c)}
        | {"weight": value, "samples": 1 + 2 * c}
        for name, values in weights.items()
        for i, value in enumerate(values)
        for c in range(2)
    ]
    pd.DataFrame(rows).to_parquet(run.path / "weights.parquet")
