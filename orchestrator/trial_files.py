"""What a sweep keeps of its trials: the files from which it is resumed and reported.

Each trial is a run of its own below the sweep's folder, named by the trial's number; ``trial.json``
beside the run's files says what was tried, and how it ended if not by finishing. A sweep is resumed
from these files alone, as every run is from its own: there is no state of a driver to lose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from pydantic import TypeAdapter

from distill.config import Experiment
from distill.loading import ConfigError
from orchestrator.runs import RunFolder, find_runs, write_atomically

if TYPE_CHECKING:
    import pandas as pd

# Below a sweep's folder: its trials' runs, and Tune's own files, which tell the same once more.
TRIALS, TUNE = "trials", "ray"
_FILE = "trial.json"

State = Literal["finished", "stopped", "failed", "broken off"]


@final
@dataclass(frozen=True, slots=True)
class Note:
    """What ``trial.json`` says: ``ended`` is empty while the trial runs, and if it finishes."""

    number: int
    values: Mapping[str, Any]
    ended: Literal["", "stopped", "failed"] = ""
    reason: str = ""

    def write(self, run: RunFolder) -> None:
        text = json.dumps(asdict(self), indent=2) + "\n"
        write_atomically(run.path / _FILE, lambda draft: draft.write_text(text))

    @classmethod
    def of(cls, run: RunFolder) -> Note | None:
        """What was noted of a run; None for one that is no trial. Raises ConfigError."""
        file = run.path / _FILE
        if not file.is_file():
            return None
        try:
            return TypeAdapter(cls).validate_json(file.read_bytes())
        except ValueError as error:
            raise ConfigError(
                f"{file}: damaged ({error}); delete {run.path}, and the trial begins anew"
            ) from None


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one trial."""

    number: int
    values: Mapping[str, Any]
    epochs: int
    score: float  # the metric of its last epoch; NaN if it failed or has none
    state: State
    reason: str
    run: RunFolder

    @property
    def name(self) -> str:
        return trial_name(self.number)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep leaves behind."""

    trials: tuple[Trial, ...]  # best first
    best: Experiment | None  # None where no trial has a score
    best_file: Path
    folder: Path


def trial_name(number: int) -> str:
    return f"{number:03}"


def trial_run(folder: Path, *, method: str, number: int, seed: int) -> RunFolder:
    """The run of a trial of the sweep in ``folder``."""
    return RunFolder.at(
        folder, experiment=TRIALS, method=method, digest=trial_name(number), seed=seed
    )


def read_trials(folder: Path, metric: str) -> list[Trial]:
    """Every trial that was begun in a sweep's folder, by number."""
    root = folder / TRIALS
    runs = find_runs(root) if root.is_dir() else []
    noted = [(run, note) for run in runs if (note := Note.of(run))]
    trials = (_trial(run, note, metric) for run, note in noted)
    return sorted(trials, key=lambda trial: trial.number)


def _trial(run: RunFolder, note: Note, metric: str) -> Trial:
    rows = run.metrics()
    scored = scores(rows)
    score = float(scored[metric].iloc[-1]) if len(scored) and not note.reason else math.nan
    state: State = "finished" if run.finished else note.ended or "broken off"
    return Trial(note.number, note.values, len(rows), score, state, note.reason, run)


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """What a search can select by, epoch by epoch: validation accuracy, and the best one so far."""
    import pandas as pd

    if not len(rows):
        return pd.DataFrame()
    accuracy = rows["accuracy/validation"]
    return pd.DataFrame(
        {"accuracy/validation": accuracy, "accuracy/validation_best": accuracy.cummax()}
    )


def ranked(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The best first: those that finished by score, then the others, then those without a score."""
    return tuple(
        sorted(
            trials,
            key=lambda t: (math.isnan(t.score), t.state != "finished", -_or_zero(t.score)),
        )
    )


def _or_zero(score: float) -> float:
    return 0.0 if math.isnan(score) else score
