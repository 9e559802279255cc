"""What won: the index of runs, compared over seeds, as numbers and as one table.

A row is one configuration (experiment, method, digest). Differences are paired by seed, because
runs of one seed share their initialisation and the order of their data. Accuracies are fractions;
the tables for people show percent. Importing this module imports neither torch nor pandas.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from distill.loading import ConfigError
from orchestrator.run_index import config_of
from orchestrator.runs import IDENTITY
from orchestrator.text_tables import NONE, TextTable, percent, plain, scaled, seconds

if TYPE_CHECKING:
    import pandas as pd

BASELINES = ("ce", "kd")
CONFIDENCE = 0.95
_BEST, _PARAMETERS, _STORE = "at best validation %", "parameters", "store"
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


def rows_of(index: pd.DataFrame) -> list[dict[str, Any]]:
    """The index as one mapping a run."""
    columns = [str(name) for name in index.columns]
    return [dict(zip(columns, row, strict=True)) for row in index.itertuples(index=False)]


def finished_runs(index: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``orchestrator.run_index.index`` that have a result, one mapping a run."""
    return [row for row in rows_of(index) if row["finished"]]


def values_of(runs: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """Each run's value of a column, as text: of its identity, or a setting by dotted path.

    A path to several settings, as ``method.levels``, gives them all. Raises ConfigError where no
    run has the column.
    """
    if column in IDENTITY:
        return [str(run[column]) for run in runs]
    path = re.sub(r"\[(\d+)\]", r".\1", column)
    configs = [config_of(run) for run in runs]
    values = [_setting(config, path) for config in configs]
    if runs and all(value is None for value in values):
        known = list(dict.fromkeys(key for config in configs for key in config))
        raise ConfigError(f"--by: no column '{column}'; {_near(path, known)}")
    return [NONE if value is None else value for value in values]


def _setting(config: Mapping[str, Any], path: str) -> str | None:
    """The setting at a path, or all below it; None where there is none."""
    if path in config:
        return plain(config[path])
    below = {key: value for key, value in config.items() if key.startswith(f"{path}.")}
    names = {key: key.removeprefix(f"{path}.") for key in below}
    named = not all(name.isdigit() for name in names.values())
    texts = (
        f"{names[key]} {plain(value)}" if named else plain(value) for key, value in below.items()
    )
    return ", ".join(texts) or None


def _near(path: str, settings: Sequence[str]) -> str:
    """What may be meant: the same last name elsewhere, or a name that is spelt alike."""
    ends = [name for name in settings if name.endswith(f".{path}")]
    near = list(
        dict.fromkeys([*ends, *get_close_matches(path, [*IDENTITY, *settings], n=3, cutoff=0.7)])
    )
    hint = f"did you mean {' or '.join(map(repr, near[:3]))}? " if near else ""
    return (
        f"{hint}columns: {', '.join(IDENTITY)}, and every setting of the runs' config.yaml, as "
        "method.temperature"
    )


def label_runs(runs: Sequence[Mapping[str, Any]], *, by: str = "method") -> list[str]:
    """A name for each run's configuration: its value of ``by``, and what else sets it apart.

    Runs of one method with two digests are two configurations; averaging them would be wrong.
    Raises ConfigError where ``by`` is no column.
    """
    return tell_apart(values_of(runs, by), runs, ("experiment", "method", "digest"))


def tell_apart(
    labels: Sequence[str], runs: Sequence[Mapping[str, Any]], columns: Iterable[str]
) -> list[str]:
    """The runs' labels; one that runs share which differ in a column takes its value along."""
    labels = list(labels)
    for column in columns:
        values: dict[str, set[str]] = defaultdict(set)
        for label, run in zip(labels, runs, strict=True):
            values[label].add(run[column])
        labels = [
            f"{label} · {run[column]}" if len(values[label]) > 1 else label
            for label, run in zip(labels, runs, strict=True)
        ]
    return labels


def best_labels(
    runs: Sequence[Mapping[str, Any]], labels: Sequence[str], *, most: int
) -> list[str]:
    """The labels with a test accuracy, the best mean first; as many as a picture can show."""
    scores: dict[str, list[float]] = defaultdict(list)
    for label, run in zip(labels, runs, strict=True):
        if not math.isnan(run["test_accuracy"]):
            scores[label].append(run["test_accuracy"])
    return sorted(scores, key=lambda label: (-statistics.fmean(scores[label]), label))[:most]


def compare(index: pd.DataFrame, *, by: str = "method") -> pd.DataFrame:
    """One row a configuration, over its finished seeds, best last test accuracy first.

    Columns: ``by``, ``num_seeds``; mean and sample standard deviation (NaN for one seed) of
    ``test_accuracy`` and ``test_accuracy_best``; ``versus_ce``, ``versus_kd``: mean difference of
    test accuracy over shared seeds, with ``_low``, ``_high`` its 95 % t interval and ``_pairs``;
    mean ``seconds``, ``parameters`` and ``signal_bytes`` (of the records that the run reads). A
    difference is NaN where the experiment has not exactly one configuration of the baseline.
    Raises ConfigError for an unknown ``by``.
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
        for name in ("seconds", "parameters", "signal_bytes"):
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


def comparison_table(index: pd.DataFrame, *, by: str = "method") -> TextTable:
    """``compare`` for people: students best first, then teachers.

    Raises ConfigError where no run is finished, or ``by`` is no column.
    """
    columns = compare(index, by=by).to_dict("list")
    table = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not table:
        raise ConfigError("compare: none of the runs is finished; let one end, then compare")
    shown = [name for name in BASELINES if any(row[f"versus_{name}_pairs"] for row in table)]
    first = "student by" if by == "method" else by
    headings = [first, "test %", _BEST, "seeds", *(f"vs {name}" for name in shown)]
    students = [_student_cells(row, by, shown) for row in table]
    blank = [""] * (len(shown) + 3)
    teachers = [
        [f"teacher {name}", f"{100 * accuracy:.2f}", *blank, scaled(parameters), ""]
        for name, accuracy, parameters in teacher_accuracies(index)
    ]
    headings += ["seconds", _PARAMETERS, _STORE]
    return TextTable(headings, [students, teachers], _CAPTION, (_BEST, _STORE, _PARAMETERS))


def _student_cells(row: Mapping[str, Any], by: str, shown: list[str]) -> list[str]:
    cells = [str(row[by])]
    for name in ("test_accuracy", "test_accuracy_best"):
        cells.append(percent(row[f"{name}_mean"], row[f"{name}_std"]))
    cells.append(str(row["num_seeds"]))
    for name in (f"versus_{baseline}" for baseline in shown):
        cells.append(percent(row[name], row[f"{name}_high"] - row[name], sign="+"))
    store = scaled(row["signal_bytes"], unit="B") if row["signal_bytes"] else NONE
    return [*cells, seconds(row["seconds"]), scaled(row["parameters"]), store]
