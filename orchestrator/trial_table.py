"""A sweep's trials, compared by validation accuracy: no trial is ever tested.

A trial's score is the validation accuracy of its last epoch, as the search sees it. Importing this
module imports neither torch nor pandas.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from orchestrator.comparison import mean_and_std, rows_of, tell_apart, values_of
from orchestrator.run_differences import labels
from orchestrator.run_index import LAST_VALIDATION
from orchestrator.text_tables import NONE, TextTable, percent, plain, seconds

if TYPE_CHECKING:
    import pandas as pd

_CAPTION = (
    "validation %: of the last epoch, as the search sees it; ± standard deviation over trials"
)
_BEST, _SECONDS = "at best epoch %", "seconds"
Setting = bool | int | float | str | None


@final
@dataclass(frozen=True, slots=True)
class Scored:
    """One trial of the index; ``score`` is a fraction, NaN where it failed or no epoch ended."""

    row: Mapping[str, Any]
    score: float
    settings: Mapping[str, Setting]  # what was tried, by dotted path; None where it had no such

    @property
    def state(self) -> str:
        """``finished``, ``stopped``, ``failed`` or ``broken off``."""
        return self.row["state"]


def scored_trials(index: pd.DataFrame) -> list[Scored]:
    """The trials in an index, those that were finished first, the best score first."""
    rows = rows_of(index)
    tried: list[dict[str, Setting]] = [json.loads(row["tried"]) for row in rows]
    paths = list(dict.fromkeys(path for values in tried for path in values))
    trials = [
        Scored(
            row,
            math.nan if row["state"] == "failed" else row[LAST_VALIDATION],
            {path: _scalar(values.get(path)) for path in paths},
        )
        for row, values in zip(rows, tried, strict=True)
    ]
    return sorted(
        trials,
        key=lambda t: (math.isnan(t.score), t.state != "finished", -t.score, t.row["path"]),
    )


def _scalar(value: Any) -> Setting:
    return json.dumps(value) if isinstance(value, list | dict) else value


def compare_trials(index: pd.DataFrame, *, by: str | None = None) -> pd.DataFrame:
    """One row a trial, or a value of ``by``; the best validation accuracy first.

    Columns: ``trial`` (its id) or ``by``; ``num_trials``, ``state``; mean and sample standard
    deviation (NaN of one) of ``validation_accuracy`` (of the last epoch); mean
    ``best_validation_accuracy``, ``epochs`` and ``seconds``; the settings that were tried, where
    those of the row agree; ``reason`` (of a failure). Raises ConfigError for an unknown ``by``.
    """
    import pandas as pd

    trials = scored_trials(index)
    groups: dict[str, list[Scored]] = defaultdict(list)
    for label, trial in zip(_labels(trials, by), trials, strict=True):
        groups[label].append(trial)
    rows = [_row(by or "trial", label, group) for label, group in groups.items()]
    rows.sort(key=lambda row: _order(row, by_state=by is None))
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


def _labels(trials: Sequence[Scored], by: str | None) -> list[str]:
    rows = [trial.row for trial in trials]
    if by is not None:
        return values_of(rows, by)
    names = [row["digest"] for row in rows]
    return tell_apart(names, rows, ("sweep", "experiment", "method"))  # every sweep counts from 0


def _order(row: Mapping[str, Any], *, by_state: bool) -> tuple[Any, ...]:
    score = row["validation_accuracy_mean"]
    return (math.isnan(score), by_state and row["state"] != "finished", -score)


def _row(column: str, label: str, group: Sequence[Scored]) -> dict[str, Any]:
    states = Counter(trial.state for trial in group)
    mean, std = mean_and_std(trial.score for trial in group)
    row: dict[str, Any] = {
        column: label,
        "num_trials": len(group),
        "state": ", ".join(f"{n} {name}" if len(group) > 1 else name for name, n in states.items()),
        "validation_accuracy_mean": mean,
        "validation_accuracy_std": std,
    }
    scored = [trial.row for trial in group if not math.isnan(trial.score)]
    row["best_validation_accuracy"], _ = mean_and_std(run["validation_accuracy"] for run in scored)
    for name in ("epochs", "seconds"):
        row[name], _ = mean_and_std(trial.row[name] for trial in group)
    for path in group[0].settings:
        if path != column:
            values = [trial.settings[path] for trial in group]
            row[path] = values[0] if len({*map(repr, values)}) == 1 else None
    row["reason"] = "; ".join(dict.fromkeys(t.row["reason"] for t in group if t.row["reason"]))
    return row


def trials_table(index: pd.DataFrame, *, by: str | None = None) -> TextTable:
    """``compare_trials`` for people. Raises ConfigError for an unknown ``by``."""
    columns = compare_trials(index, by=by).to_dict("list")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    fixed = ("num_trials", "state", "validation_accuracy_mean", "validation_accuracy_std")
    fixed += ("best_validation_accuracy", "epochs", "seconds", "reason")
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
    names = list(labels(settings).values())
    yielding = (_SECONDS, _BEST, *reversed(names))
    return TextTable([*headings, *names], [cells], _CAPTION, yielding)


def _one(fraction: float) -> str:
    return NONE if math.isnan(fraction) else f"{100 * fraction:.2f}"
