"""A sweep's trials, compared by validation accuracy: no trial is ever tested.

A trial's score is the validation accuracy of its last epoch, as the search sees it. Importing this
module imports neither torch nor pandas.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from orchestrator.comparison import label_runs, mean_and_std, rows_of, values_of
from orchestrator.run_index import LAST_VALIDATION, config_of
from orchestrator.text_tables import NONE, TextTable, percent, plain, seconds

if TYPE_CHECKING:
    import pandas as pd

_CAPTION = (
    "validation %: of the last epoch, as the search sees it; ± standard deviation over trials"
)
_BEST, _SECONDS = "at best epoch %", "seconds"
_OWN = ("name", "seeds.", "output.", "baselines.")  # settings that say nothing of how to train

Setting = bool | int | float | str | None


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """One trial; ``score`` and ``best`` (of its best epoch) are fractions, NaN where it failed."""

    row: Mapping[str, Any]
    state: str  # finished, stopped (or still training), failed
    score: float
    best: float
    settings: Mapping[str, Setting]  # by dotted path: those in which the trials differ


def trials_of(index: pd.DataFrame) -> list[Trial]:
    """The trials in an index: those that were finished first, the best score first."""
    rows = rows_of(index)
    settings = _varied([config_of(row) for row in rows])
    trials: list[Trial] = []
    for row, values in zip(rows, settings, strict=True):
        state = "failed" if row["failure"] else "finished" if row["finished"] else "stopped"
        scores = (row[LAST_VALIDATION], row["validation_accuracy"])
        score, best = (math.nan, math.nan) if row["failure"] else scores
        trials.append(Trial(row, state, score, best, values))
    order = ("finished", "stopped", "failed")
    return sorted(
        trials, key=lambda t: (order.index(t.state), math.isnan(t.score), -t.score, t.row["path"])
    )


def _varied(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Setting]]:
    """Of each trial, the settings in which not all agree."""
    paths = list(dict.fromkeys(path for config in configs for path in config))
    values = {
        path: [config.get(path) for config in configs]
        for path in paths
        if not path.startswith(_OWN)
    }
    # Not as a set: True is 1, and 1 is 1.0.
    varied = {path: column for path, column in values.items() if len({*map(repr, column)}) > 1}
    return [{path: column[i] for path, column in varied.items()} for i in range(len(configs))]


def compare_trials(index: pd.DataFrame, *, by: str | None = None) -> pd.DataFrame:
    """One row a trial, or a value of ``by``; the best validation accuracy first.

    Columns: ``trial`` (its id) or ``by``; ``num_trials``, ``state``; mean and sample standard
    deviation (NaN of one) of ``validation_accuracy`` (of the last epoch); mean
    ``best_validation_accuracy``, ``epochs`` and ``seconds``; the settings in which the trials
    differ, where those of the row agree; ``failure``. Raises ConfigError for an unknown ``by``.
    """
    import pandas as pd

    trials = trials_of(index)
    labels = _labels(trials, by)
    groups: dict[str, list[Trial]] = defaultdict(list)
    for label, trial in zip(labels, trials, strict=True):
        groups[label].append(trial)
    rows = [_row(by or "trial", label, group) for label, group in groups.items()]
    rows.sort(key=lambda row: _order(row, with_state=by is None))
    table = pd.DataFrame(rows)
    for path in trials[0].settings if trials else ():
        if path in table and _is_mixed(table[path]):  # Parquet takes one type
            table[path] = [None if _is_missing(value) else plain(value) for value in table[path]]
    return table


def _is_mixed(values: Iterable[Any]) -> bool:
    kinds = {
        float if type(value) is int else type(value) for value in values if not _is_missing(value)
    }
    return len(kinds) > 1


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _labels(trials: Sequence[Trial], by: str | None) -> list[str]:
    rows = [trial.row for trial in trials]
    if by is not None:
        return values_of(rows, by)
    return label_runs(rows, by="digest")  # and the experiment, where two sweeps share an id


def _order(row: Mapping[str, Any], *, with_state: bool) -> tuple[Any, ...]:
    score = row["validation_accuracy_mean"]
    cut_short = with_state and row["state"] != "finished"
    return (cut_short, math.isnan(score), -score)


def _row(column: str, label: str, group: Sequence[Trial]) -> dict[str, Any]:
    states = Counter(trial.state for trial in group)
    mean, std = mean_and_std(trial.score for trial in group)
    row: dict[str, Any] = {
        column: label,
        "num_trials": len(group),
        "state": ", ".join(f"{n} {name}" if len(group) > 1 else name for name, n in states.items()),
        "validation_accuracy_mean": mean,
        "validation_accuracy_std": std,
    }
    row["best_validation_accuracy"], _ = mean_and_std(trial.best for trial in group)
    for name in ("epochs", "seconds"):
        row[name], _ = mean_and_std(trial.row[name] for trial in group)
    for path in group[0].settings:
        if path != column:
            values = [trial.settings[path] for trial in group]
            row[path] = values[0] if len({*map(repr, values)}) == 1 else None
    row["failure"] = "; ".join(dict.fromkeys(t.row["failure"] for t in group if t.row["failure"]))
    return row


def trials_table(index: pd.DataFrame, *, by: str | None = None) -> TextTable:
    """``compare_trials`` for people. Raises ConfigError for an unknown ``by``."""
    columns = compare_trials(index, by=by).to_dict("list")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    fixed = ("num_trials", "state", "validation_accuracy_mean", "validation_accuracy_std")
    fixed += ("best_validation_accuracy", "epochs", "seconds", "failure")
    first, *rest = [str(name) for name in columns]
    settings = [name for name in rest if name not in fixed]
    counts = ["trials"] if by is not None else []
    headings = [first, "validation %", _BEST, *counts, "state", "epochs", _SECONDS]
    cells = [
        [
            str(row[first]),
            percent(row["validation_accuracy_mean"], row["validation_accuracy_std"])
            if by is not None
            else _one(row["validation_accuracy_mean"]),
            _one(row["best_validation_accuracy"]),
            *([str(row["num_trials"])] if by is not None else []),
            row["state"],
            plain(row["epochs"]),
            seconds(row["seconds"]),
            *(NONE if _is_missing(row[name]) else plain(row[name]) for name in settings),
        ]
        for row in rows
    ]
    names = [short_name(name) for name in settings]
    return TextTable([*headings, *names], [cells], _CAPTION, frozenset((_BEST, _SECONDS)))


def short_name(path: str) -> str:
    """A setting's path, without what goes without saying."""
    return "method" if path == "method.name" else path.removeprefix("method.")


def _one(fraction: float) -> str:
    return NONE if math.isnan(fraction) else f"{100 * fraction:.2f}"
