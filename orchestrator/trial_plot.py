"""A sweep's trials in parallel coordinates: a line a trial, through its settings to its score.

Importing this module does not import matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from orchestrator.drawing import GREY, LABEL_PT, NothingToDraw, is_log_like, new_figure
from orchestrator.text_tables import plain
from orchestrator.trial_table import Scored, Setting, scored_trials

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FAILED = -0.14  # the height of the failed, below the lowest score at 0
_LONGEST = 18  # characters of a category's name
_MOST_AXES = 12
_COLORS = "viridis"  # even in lightness, and for every kind of colour vision
_LIGHTEST = 0.92  # of the map: its brightest yellow is faint on white
_TICK_GAP = 0.045  # of an axis's height
_BEST_LINE: dict[str, Any] = {"linewidth": 3.5}
_SHORT_LINE: dict[str, Any] = {"linewidth": 1.0, "linestyle": (0, (6, 2))}
_LINES: dict[str, dict[str, Any]] = {
    "finished": {"linewidth": 1.5},
    "stopped": _SHORT_LINE,
    "broken off": _SHORT_LINE,
}
_FAILED_LINE: dict[str, Any] = {"color": GREY, "linewidth": 1.1, "linestyle": (0, (1, 2))}


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """One setting's axis: where values stand on it, in [0, 1], and its ticks."""

    title: str
    place: Callable[[Setting], float]
    ticks: Sequence[tuple[float, str]]


def draw_trials(index: pd.DataFrame, *, title: str = "") -> Figure:
    """The trials of one sweep, the darker the worse; those without a score are dotted, and apart.

    Numbers stand on a linear or a logarithmic axis, whichever spreads them more evenly; all else
    stands evenly. Raises NothingToDraw where the trials do not differ, or none has a score.
    """
    trials = scored_trials(index)
    scores = [100 * trial.score for trial in trials if not math.isnan(trial.score)]
    if not scores:
        raise NothingToDraw("no trial has a validation accuracy")
    names = list(trials[0].settings)[:_MOST_AXES]
    if not names:
        raise NothingToDraw("it is not known what the trials tried")
    axes_of = [make_axis(name, [trial.settings[name] for trial in trials]) for name in names]
    figure = new_figure(max(7.0, 3.0 + 1.75 * len(names)), 6)
    axes = figure.subplots()
    low, high = min(scores), max(scores)
    _draw_lines(axes, trials, axes_of, low=low, high=high)
    _draw_axes(axes, [*axes_of, _score_axis(low, high, any_failed=len(scores) < len(trials))])
    _draw_key(figure, trials)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure


def make_axis(name: str, values: Sequence[Setting]) -> Axis:
    """An axis for a setting with these values; None, which stands for a lack of it, is a name."""
    path = name.removeprefix("method.").split(".")
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        return _number_axis("\n".join(path), numbers)
    texts = sorted({*map(plain, values)})
    gap = 1 / max(1, len(texts) - 1)
    places = {text: i * gap if len(texts) > 1 else 0.5 for i, text in enumerate(texts)}
    ticks = [(place, _short(text)) for text, place in places.items()]
    return Axis("\n".join(path), lambda value: places[plain(value)], ticks)


def _number_axis(title: str, values: Sequence[float]) -> Axis:
    low, high = float(min(values)), float(max(values))
    span = high - low
    if is_log_like(values):

        def place(value: Any) -> float:
            return math.log(value / low) / math.log(high / low)

        def value_at(part: float) -> float:
            return low * (high / low) ** part

        title += "\n(log)"
    else:

        def place(value: Any) -> float:
            return (value - low) / span if span else 0.5

        def value_at(part: float) -> float:
            return low + part * span

    distinct = sorted(set(values))
    # Few values, as of a choice, are the ticks themselves.
    shown = distinct if len(distinct) <= 6 else [value_at(i / 4) for i in range(5)]
    return Axis(title, place, [(place(value), f"{value:.3g}") for value in shown])


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _score_axis(low: float, high: float, *, any_failed: bool) -> Axis:
    parts = [i / 4 for i in range(5)] if high > low else [0.5]
    ticks = [(part, f"{low + part * (high - low):.2f}") for part in parts]
    if any_failed:
        ticks.append((_FAILED, "no score"))
    return Axis("validation\naccuracy (%)", lambda _: math.nan, ticks)


def _draw_lines(
    axes: Axes, trials: Sequence[Scored], axes_of: Sequence[Axis], *, low: float, high: float
) -> None:
    from matplotlib import colormaps

    best = next(trial for trial in trials if not math.isnan(trial.score))
    for trial in reversed(trials):  # the best on top
        settings = trial.settings.values()
        places = [axis.place(value) for axis, value in zip(axes_of, settings, strict=False)]
        xs = range(len(places) + 1)
        if math.isnan(trial.score):
            axes.plot(xs, [*places, _FAILED], **_FAILED_LINE)
            continue
        part = (100 * trial.score - low) / (high - low) if high > low else 0.5
        style = _BEST_LINE if trial is best else _LINES[trial.state]
        axes.plot(xs, [*places, part], color=colormaps[_COLORS](_LIGHTEST * part), **style)


def _draw_axes(axes: Axes, shown: Sequence[Axis]) -> None:
    last = len(shown) - 1
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
    for x, axis in enumerate(shown):
        axes.plot([x, x], [0, 1], color=GREY, linewidth=1, zorder=3)
        for place, text in _apart(axis.ticks):
            is_right = x == last
            side = 1 if is_right else -1
            axes.plot([x, x + 0.025 * side], [place, place], color=GREY, linewidth=1, zorder=3)
            axes.text(
                x + 0.045 * side,
                place,
                text,
                ha="left" if is_right else "right",
                va="center",
                fontsize=LABEL_PT,
                bbox=box,
                zorder=4,
            )
        axes.text(x, 1.05, axis.title, ha="center", va="bottom", fontsize=LABEL_PT + 1)
    axes.set_xlim(-0.55, last + 0.45)
    axes.set_ylim(_FAILED - 0.05, 1.04)
    axes.axis("off")


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The ticks whose texts do not run into one another."""
    kept: list[tuple[float, str]] = []
    for place, text in sorted(ticks):
        if not kept or place - kept[-1][0] >= _TICK_GAP:
            kept.append((place, text))
    return kept


def _draw_key(figure: Figure, trials: Sequence[Scored]) -> None:
    from matplotlib.lines import Line2D

    scored = {trial.state for trial in trials if not math.isnan(trial.score)}
    unscored = [trial.state for trial in trials if math.isnan(trial.score)]
    lines = {"best": _BEST_LINE} | {state: _LINES[state] for state in _LINES if state in scored}
    black: dict[str, Any] = {"color": "black"}
    rows = {state: line | black for state, line in lines.items()}
    if unscored:
        rows[" or ".join(dict.fromkeys(unscored)) + ", without a score"] = _FAILED_LINE
    handles = [Line2D([], [], label=label, **line) for label, line in rows.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
