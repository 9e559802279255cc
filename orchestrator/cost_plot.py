"""Accuracy against what it costs: seconds of training, and parameters of what is deployed.

Importing this module does not import matplotlib.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from orchestrator.comparison import mean_and_std, teacher_accuracies
from orchestrator.drawing import (
    GREY,
    LABEL_PT,
    NothingToDraw,
    Point,
    Style,
    clean,
    is_log_like,
    new_figure,
    styles,
)
from orchestrator.plots import shown_runs
from orchestrator.point_names import name_points
from orchestrator.text_tables import scaled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {"seconds": "training seconds", "parameters": "parameters"}


@final
@dataclass(frozen=True, slots=True)
class _Panel:
    """What one panel shows: points in units of its cost and percent."""

    cost: str
    students: Mapping[str, Point]
    stds: Mapping[str, float]  # of the accuracy, in percent; 0 of one seed
    teachers: Mapping[str, Point]


def draw_cost(index: pd.DataFrame, *, by: str = "method", title: str = "") -> Figure:
    """Mean test accuracy of each configuration against its mean cost, and the Pareto front.

    A panel for each cost in which the configurations differ; beside parameters, the teachers
    stand, too. Raises NothingToDraw where no cost differs, ConfigError for an unknown ``by``.
    """
    runs, note = shown_runs(index, by=by)
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for label, run in runs:
        groups[label].append(run)
    teachers = teacher_accuracies(index)
    panels = [panel for cost in COSTS if (panel := _panel(cost, groups, teachers)) is not None]
    if not panels:
        raise NothingToDraw("all configurations cost the same")
    figure = new_figure(8.5 * len(panels), 6.5)
    figure.suptitle(f"{title}{note}", fontsize=14, fontweight="bold")
    chosen = styles(groups)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel, chosen)
    for axes, panel in zip(figure.axes, panels, strict=True):
        _name(axes, panel, chosen)
    return figure


def _panel(
    cost: str,
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    teachers: Sequence[tuple[str, float, int]],
) -> _Panel | None:
    students: dict[str, Point] = {}
    stds: dict[str, float] = {}
    for label, runs in groups.items():
        accuracy, std = mean_and_std(100 * run["test_accuracy"] for run in runs)
        mean_cost, _ = mean_and_std(run[cost] for run in runs)
        if mean_cost > 0:
            students[label] = (mean_cost, accuracy)
            stds[label] = 0.0 if math.isnan(std) else std
    if len({x for x, _ in students.values()}) < 2:
        return None
    shown = teachers if cost == "parameters" else []
    named = {f"{name} (teacher)": (float(size), 100 * known) for name, known, size in shown}
    return _Panel(cost, students, stds, named)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points (cost, accuracy) that no cheaper one is as accurate as, the cheapest first."""
    front: list[Point] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _draw(axes: Axes, panel: _Panel, chosen: Mapping[str, Style]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    clean(axes, grid="both")
    for label, (x, y) in panel.students.items():
        color, _, marker = chosen[label]
        axes.errorbar(
            x, y, yerr=panel.stds[label], color=color, marker=marker, markersize=7, linewidth=1.2
        )
    for x, y in panel.teachers.values():
        axes.plot([x], [y], "*", color=GREY, markersize=10)
    xs = [x for x, _ in (*panel.students.values(), *panel.teachers.values())]
    if is_log_like(xs) or max(xs) > 10 * min(xs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: scaled(value))
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel(f"{COSTS[panel.cost]} (mean over seeds)")
    axes.set_ylabel("test accuracy in % (mean, ± standard deviation over seeds)")
    _draw_front(axes, pareto_front(list(panel.students.values())))


def _draw_front(axes: Axes, front: Sequence[Point]) -> None:
    """A line below which everything is beaten: something as cheap is more accurate."""
    right = axes.get_xlim()[1]
    axes.set_xlim(right=right)
    steps = _steps(front, right=right)
    axes.plot(*zip(*steps, strict=True), color=GREY, linewidth=1, zorder=1)
    axes.annotate(
        "Pareto front",
        xy=(1, front[-1][1]),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=LABEL_PT,
        color=GREY,
    )


def _steps(front: Sequence[Point], *, right: float) -> list[Point]:
    """The corners of the front's line, which goes on to the right edge."""
    steps: list[Point] = []
    for here, there in itertools.pairwise([*front, (right, front[-1][1])]):
        steps += [here, (there[0], here[1])]
    return steps


def _name(axes: Axes, panel: _Panel, chosen: Mapping[str, Style]) -> None:
    points = {**panel.students, **panel.teachers}
    colors = {label: chosen[label][0] if label in chosen else GREY for label in points}
    bars = [
        ((x, y - panel.stds[label]), (x, y + panel.stds[label]))
        for label, (x, y) in panel.students.items()
    ]
    front = _steps(pareto_front(list(panel.students.values())), right=axes.get_xlim()[1])
    name_points(axes, points, colors, lines=[*bars, *itertools.pairwise(front)])
