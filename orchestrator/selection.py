"""Which runs a comparison is of: from what the command line names to rows of the index.

Importing this module imports neither torch nor pandas: a wrong name is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from distill.loading import ConfigError, load_experiment, shipped_experiments
from distill.storage import runs_folder
from orchestrator.comparison import rows_of
from orchestrator.run_index import index
from orchestrator.runs import IDENTITY, RunFolder, find_runs

if TYPE_CHECKING:
    import pandas as pd

# What two copies of one run must agree on; times may differ, for it may have been run twice.
_OUTCOME = (
    *("epochs", "test_accuracy", "test_accuracy_best", "best_epoch", "validation_accuracy"),
    "parameters",
)
_NAMED = 3  # runs or experiments; of more, the number is given


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """The rows to compare, and what is to be said of those that are not among them."""

    table: pd.DataFrame
    of_trials: bool  # all of them: a sweep's, to be compared by validation accuracy
    title: str  # what the runs are of
    folder: Path  # where the comparison's files go by default
    notes: tuple[str, ...]


def folders_of(arguments: Sequence[str]) -> list[Path]:
    """The folders that are named: as they are, or by an experiment; ``runs`` where none is.

    An experiment, shipped or a YAML file, stands for ``output.root/name``. Raises ConfigError.
    """
    return [_folder(argument) for argument in arguments or [str(runs_folder())]]


def _folder(argument: str) -> Path:
    path = Path(argument)
    is_file = path.suffix in (".yaml", ".yml") and path.is_file()
    if is_file or argument in shipped_experiments():
        experiment = load_experiment(argument)
        folder = experiment.output.root / experiment.name
        if folder.is_dir():
            return folder
        if not path.is_dir():
            raise ConfigError(
                f"compare: '{argument}' has no runs in '{folder}' yet; train it first, with "
                f"`tutelage train {argument}`, or name the folder where they are"
            )
    if path.is_dir():
        return path
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    known = {name: str(path.parent / name) for name in beside}
    known |= {name: name for name in shipped_experiments()}
    if runs_folder().is_dir():
        known |= {entry.name: str(entry) for entry in runs_folder().iterdir() if entry.is_dir()}
    near = [known[name] for name in get_close_matches(path.name, known, n=2)]
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    else:
        hint = f"give a folder of runs, or one of {', '.join(shipped_experiments())}"
    raise ConfigError(f"compare: '{argument}' is no folder, experiment or YAML file; {hint}")


def select(folders: Sequence[Path]) -> Selection:
    """The runs below some folders, each once, that are finished; or trials, where all are trials.

    Raises ConfigError where there are none, or one is damaged.
    """
    runs = [run for folder in folders for run in find_runs(folder)]
    if not runs:
        below = ", ".join(f"'{folder}'" for folder in folders)
        raise ConfigError(f"compare: no run lies below {below}; train something first")
    rows, notes = _joined(rows_of(index(runs)))
    kept = [row for row in rows if not row["sweep"]]
    trials = [row for row in rows if row["sweep"]]
    of_trials = not kept
    if of_trials:
        kept = trials
    else:
        notes += _left_out_trials(trials)
        notes += _unfinished([row for row in kept if not row["finished"]])
        kept = [row for row in kept if row["finished"]]
    names = list(dict.fromkeys(row["experiment"] for row in kept))
    title = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} experiments"
    return Selection(_table(kept), of_trials, title, _beside(kept or rows), tuple(notes))


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))


def _joined(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Each run once: of copies, the first that is finished. Says where copies contradict."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    notes: list[str] = []
    for row in rows:
        name = tuple(row[column] for column in ("sweep", *IDENTITY))
        other = kept.setdefault(name, row)
        if row["finished"] and not other["finished"]:
            kept[name] = row
        elif row["finished"] and (differs := _differing(row, other)):
            values = ", ".join(
                f"{column} {other[column]:g} and {row[column]:g}" for column in differs
            )
            notes.append(
                f"conflict: '{other['path']}' and '{row['path']}' are the same run with other "
                f"results ({values}); the first counts"
            )
    return list(kept.values()), notes


def _differing(row: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        column
        for column in _OUTCOME
        if row[column] != other[column]
        and not (math.isnan(row[column]) and math.isnan(other[column]))
    ]


def _left_out_trials(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    sweeps: dict[Path, int] = {}
    for row in trials:
        folder = Path(row["path"]).parents[2]
        sweeps[folder] = sweeps.get(folder, 0) + 1
    return [
        f"left out: {_counted(count, 'trial')} of a sweep, never tested; `tutelage compare "
        f"{_shown(folder)}` compares them by validation accuracy"
        for folder, count in sweeps.items()
    ]


def _unfinished(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    named = [
        f"{_shown(Path(row['path']))} (after {_counted(int(row['epochs']), 'epoch')})"
        for row in rows[:_NAMED]
    ]
    more = [f"{len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    return [
        f"left out: {_counted(len(rows), 'run')} not finished: {', '.join(named + more)}; "
        "`tutelage train` goes on with them"
    ]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shown(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _beside(rows: Sequence[Mapping[str, Any]]) -> Path:
    """``comparison/`` in the folder of the sweep or experiment; of several, in the first's ROOT."""
    homes: dict[Path, Path] = {}
    for row in rows:
        run = RunFolder(Path(row["path"]))
        home = run.path.parents[2] if run.sweep else run.experiment_folder
        homes[home] = run.experiment_folder.parent
    home, root = next(iter(homes.items()))
    return Path(_shown(home if len(homes) == 1 else root)) / "comparison"
