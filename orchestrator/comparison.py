"""What won: the index of runs, compared over seeds, as numbers and as one table.

A row is one configuration (experiment, method, digest). Differences are paired by seed, because
runs of one seed share their initialisation and the order of their data. Accuracies are fractions;
the tables for people show percent. Importing this module imports neither torch nor pandas.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

BASELINES = ("ce", "kd")
CONFIDENCE = 0.95
_NONE = "–"
_BEST, _PARAMETERS = "at best validation %", "parameters"
_ONLY_MARKDOWN = (_BEST, _PARAMETERS)  # a terminal has 80 columns
_CAPTION = "± standard deviation over seeds; vs: paired by seed, ± half a 95 % interval"


def t_quantile(probability: float, *, degrees: int) -> float:
    """Student's t quantile for ``probability`` in [0.5, 1) and a whole number of degrees.

    Bisects the closed form of the distribution (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4).
    """
    assert 0.5 <= probability < 1
    assert degrees >= 1
    low, high = 0.0, math.pi / 2  # the angle arctan(t/√degrees), finite for every t
    for _ in range(60):
        middle = (low + high) / 2
        if (1 + _two_sided(middle, degrees)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _two_sided(angle: float, degrees: int) -> float:
    """P(|T| < √degrees · tan angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of what is not NaN; NaN for want of one or two values."""
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return mean, statistics.stdev(known) if len(known) > 1 else math.nan


def finished_runs(index: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``orchestrator.runs.index`` that have a result, one mapping a run."""
    columns = [str(name) for name in index.columns]
    rows = [dict(zip(columns, row, strict=True)) for row in index.itertuples(index=False)]
    return [row for row in rows if row["finished"]]


def label_runs(runs: Sequence[Mapping[str, Any]], *, by: str = "method") -> list[str]:
    """A name for each run's configuration: its value of ``by``, and what else sets it apart.

    Runs of one method with two digests are two configurations; averaging them would be wrong.
    Raises ValueError where ``by`` is no column of the index.
    """
    columns = list(runs[0]) if runs else [by]
    if by not in columns:
        near = get_close_matches(by, columns, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"by: no column '{by}'; {hint}columns: {', '.join(columns)}")
    labels = [str(run[by]) for run in runs]
    for column in ("experiment", "method", "digest"):
        values: dict[str, set[str]] = defaultdict(set)
        for label, run in zip(labels, runs, strict=True):
            values[label].add(run[column])
        labels = [
            f"{label} · {run[column]}" if len(values[label]) > 1 else label
            for label, run in zip(labels, runs, strict=True)
        ]
    return labels


def compare(index: pd.DataFrame, *, by: str = "method") -> pd.DataFrame:
    """One row a configuration, over its finished seeds, best last test accuracy first.

    Columns: ``by``, ``num_seeds``; mean and sample standard deviation (NaN for one seed) of
    ``test_accuracy`` and ``test_accuracy_best``; ``versus_ce``, ``versus_kd``: mean difference of
    test accuracy over shared seeds, with ``_low``, ``_high`` its 95 % t interval and ``_pairs``;
    mean ``seconds`` and ``parameters``. A difference is NaN where the experiment has not exactly
    one configuration of the baseline. Raises ValueError for an unknown ``by``.
    """
    import pandas as pd

    runs = finished_runs(index)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for label, run in zip(label_runs(runs, by=by), runs, strict=True):
        groups[label].append(run)
    rows: list[dict[str, Any]] = []
    for label, group in groups.items():
        row: dict[str, Any] = {by: label, "num_seeds": len({run["seed"] for run in group})}
        for name in ("test_accuracy", "test_accuracy_best"):
            row[f"{name}_mean"], row[f"{name}_std"] = mean_and_std(run[name] for run in group)
        for baseline in BASELINES:
            row |= _versus(baseline, group, runs)
        for name in ("seconds", "parameters"):
            row[name], _ = mean_and_std(run[name] for run in group)
        rows.append(row)
    rows.sort(key=lambda row: (math.isnan(row["test_accuracy_mean"]), -row["test_accuracy_mean"]))
    return pd.DataFrame(rows)


def _versus(
    baseline: str, group: list[dict[str, Any]], runs: list[dict[str, Any]]
) -> dict[str, float]:
    """The mean difference to a baseline over the seeds that both have, and its interval."""
    method, experiment = group[0]["method"], group[0]["experiment"]
    peers = [run for run in runs if (run["method"], run["experiment"]) == (baseline, experiment)]
    paired = method != baseline and len({run["digest"] for run in peers}) == 1
    ours, theirs = _by_seed(group), _by_seed(peers)
    shared = sorted(ours.keys() & theirs.keys()) if paired else []
    mean, std = mean_and_std(ours[seed] - theirs[seed] for seed in shared)
    half = math.nan
    if not math.isnan(std):
        quantile = t_quantile((1 + CONFIDENCE) / 2, degrees=len(shared) - 1)
        half = quantile * std / math.sqrt(len(shared))
    name = f"versus_{baseline}"
    interval = {f"{name}_low": mean - half, f"{name}_high": mean + half}
    return {name: mean, **interval, f"{name}_pairs": len(shared)}


def _by_seed(runs: Iterable[dict[str, Any]]) -> dict[int, float]:
    seeds: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        if not math.isnan(run["test_accuracy"]):
            seeds[run["seed"]].append(run["test_accuracy"])
    return {seed: statistics.fmean(values) for seed, values in seeds.items()}


def teacher_accuracies(index: pd.DataFrame) -> list[tuple[str, float, int]]:
    """The finished runs' teachers of known accuracy: name, test accuracy, parameters; best first.

    Each once, or once for each accuracy where runs had different teachers of one name.
    """
    found: set[tuple[str, float, int]] = set()
    for run in finished_runs(index):
        for name, facts in json.loads(run["teachers"]).items():
            if facts["accuracy"] is not None:
                found.add((name, facts["accuracy"], facts["parameters"]))
    return sorted(found, key=lambda teacher: (-teacher[1], teacher[0]))


def _percent(mean: float, spread: float, *, sign: str = "") -> str:
    if math.isnan(mean):
        return _NONE
    spread_text = _NONE if math.isnan(spread) else f"{100 * spread:.2f}"
    return f"{100 * mean:{sign}.2f} ± {spread_text}"


def _count(number: float) -> str:
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return _NONE if math.isnan(number) else f"{number:.0f}"


def _cells(index: pd.DataFrame, by: str) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Headings, the students' rows and the teachers' rows, as text."""
    columns = compare(index, by=by).to_dict("list")
    table = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not table:
        raise ValueError("compare: none of the runs is finished; let one end, then compare")
    shown = [name for name in BASELINES if any(row[f"versus_{name}_pairs"] for row in table)]
    headings = ["student by", "test %", _BEST, "seeds", *(f"vs {name}" for name in shown)]
    students = [_student_cells(row, by, shown) for row in table]
    blank = [""] * (len(shown) + 3)
    teachers = [
        [f"teacher {name}", f"{100 * accuracy:.2f}", *blank, _count(parameters)]
        for name, accuracy, parameters in teacher_accuracies(index)
    ]
    return [*headings, "seconds", _PARAMETERS], students, teachers


def _student_cells(row: Mapping[str, Any], by: str, shown: list[str]) -> list[str]:
    cells = [str(row[by])]
    for name in ("test_accuracy", "test_accuracy_best"):
        cells.append(_percent(row[f"{name}_mean"], row[f"{name}_std"]))
    cells.append(str(row["num_seeds"]))
    for name in (f"versus_{baseline}" for baseline in shown):
        cells.append(_percent(row[name], row[f"{name}_high"] - row[name], sign="+"))
    seconds = _NONE if math.isnan(row["seconds"]) else f"{row['seconds']:,.0f}"
    return [*cells, seconds, _count(row["parameters"])]


def comparison_table(index: pd.DataFrame, *, by: str = "method", title: str = "") -> Table:
    """``compare`` in 80 columns: students best first, then teachers.

    Raises ValueError where no run is finished.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headings, students, teachers = _cells(index, by)
    table = Table(title=title or None, caption=_CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    places = [i for i, heading in enumerate(headings) if heading not in _ONLY_MARKDOWN]
    for i in places:
        table.add_column(headings[i], justify="right" if i else "left", overflow="fold")
    for rows in (students, teachers):
        for row in rows:
            table.add_row(*(Text(row[i]) for i in places))
        table.add_section()
    return table
