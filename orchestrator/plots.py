"""The picture of a comparison: test accuracy by method, and how each got there.

Importing this module does not import matplotlib.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.comparison import (
    best_labels,
    finished_runs,
    label_runs,
    mean_and_std,
    teacher_accuracies,
)
from orchestrator.drawing import (
    GREY,
    LABEL_PT,
    LEADER,
    MOST,
    NothingToDraw,
    Style,
    clean,
    new_figure,
    spread,
    styles,
)
from orchestrator.runs import VALIDATION, RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, list[tuple[int, float, float]]]  # label -> (epoch, mean, std), in percent
Labelled = Sequence[tuple[str, Mapping[str, Any]]]  # runs with their configurations' names


def draw_comparison(index: pd.DataFrame, *, by: str = "method", title: str = "") -> Figure:
    """The finished runs of an index, in two panels.

    Left: each configuration's last test accuracy, every seed a dot, mean and sample standard
    deviation over them, best first, and the teachers as dashed lines. Right: validation accuracy by
    epoch, mean and the same spread. Of more than MOST configurations, the best are drawn. Raises
    NothingToDraw where no run has a test accuracy, ConfigError for an unknown ``by``.
    """
    runs, note = shown_runs(index, by=by)
    scores, curves = _scores(runs), _curves(runs)
    chosen = styles(scores)
    height = max(4.6, 2.0 + 0.3 * len(scores))
    figure = new_figure(13, height)
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{title}{note}", fontsize=14, fontweight="bold")
    teachers = [(name, 100 * accuracy) for name, accuracy, _ in teacher_accuracies(index)]
    _draw_scores(left, scores, teachers, chosen)
    # The panel is about seven tenths of the figure; the teachers' names take the rest.
    line_height = 1.35 * LABEL_PT / 72 / (0.7 * height)
    _draw_curves(right, curves, chosen, line_height=line_height)
    return figure


def shown_runs(index: pd.DataFrame, *, by: str) -> tuple[Labelled, str]:
    """The tested runs of the best configurations, and a note for the title if not all are shown.

    Raises NothingToDraw where no run was tested.
    """
    runs = [run for run in finished_runs(index) if not math.isnan(run["test_accuracy"])]
    labels = label_runs(runs, by=by)
    best = best_labels(runs, labels, most=MOST)
    if not best:
        raise NothingToDraw("no run has a test accuracy")
    total = len(set(labels))
    note = f" (the best {len(best)} of {total})" if total > len(best) else ""
    pairs = zip(labels, runs, strict=True)
    return [(label, run) for label, run in pairs if label in best], note


def _scores(runs: Labelled) -> dict[str, list[float]]:
    """Every seed's test accuracy in percent by label, the best mean last (on top)."""
    scores: dict[str, list[float]] = defaultdict(list)
    for label, run in runs:
        scores[label].append(100 * run["test_accuracy"])
    return dict(sorted(scores.items(), key=lambda item: mean_and_std(item[1])[0]))


def _curves(runs: Labelled) -> Curves:
    seeds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for label, run in runs:
        for epoch, accuracy in RunFolder(Path(run["path"])).curve(VALIDATION):
            seeds[label][epoch].append(100 * accuracy)
    return {
        label: [(epoch, *mean_and_std(values)) for epoch, values in sorted(epochs.items())]
        for label, epochs in seeds.items()
    }


def _draw_scores(
    axes: Axes,
    scores: Mapping[str, list[float]],
    teachers: Sequence[tuple[str, float]],
    styles: Mapping[str, Style],
) -> None:
    for row, (label, values) in enumerate(scores.items()):
        mean, std = mean_and_std(values)
        color = styles[label][0]
        if not math.isnan(std):
            axes.plot([mean - std, mean + std], [row, row], color=color, linewidth=6, alpha=0.3)
        axes.plot(values, [row] * len(values), "o", color=color, markersize=4.5, alpha=0.8)
        axes.plot([mean], [row], "|", color=color, markersize=15, markeredgewidth=2.2)
    axes.set_yticks(range(len(scores)), list(scores), fontsize=10)
    axes.set_ylim(-0.7, len(scores) - 0.3)
    everything = [value for values in scores.values() for value in values]
    everything += [accuracy for _, accuracy in teachers]
    low, high = min(everything), max(everything)
    margin = max(0.06 * (high - low), 0.25)
    axes.set_xlim(max(low - margin, -1), min(high + margin, 101))
    clean(axes, grid="x")
    axes.set_xlabel("test accuracy in % (dot: a seed, tick: mean, bar: ± standard deviation)")
    _draw_teachers(axes, teachers)


def _draw_teachers(axes: Axes, teachers: Sequence[tuple[str, float]]) -> None:
    """Dashed lines, their names slanted above the panel, moved apart where they would collide."""
    low, high = axes.get_xlim()
    wanted = [(accuracy - low) / (high - low) for _, accuracy in teachers]
    places = spread(wanted, gap=0.055, low=0.0, high=0.97)
    for (name, accuracy), place in zip(teachers, places, strict=True):
        axes.axvline(accuracy, color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        axes.annotate(
            f"{name} {accuracy:.1f}",
            xy=(accuracy, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(place, 1.045),
            textcoords="axes fraction",
            rotation=40,
            rotation_mode="anchor",
            fontsize=LABEL_PT,
            color=GREY,
            arrowprops=LEADER | {"color": GREY, "relpos": (0.08, 0)},
        )


def _draw_curves(
    axes: Axes, curves: Curves, styles: Mapping[str, Style], *, line_height: float
) -> None:
    """Curves with their names; ``line_height`` of a name is a fraction of the panel's."""
    clean(axes, grid="y")
    axes.set_xlabel("epoch (line: mean over seeds, band: ± standard deviation)")
    axes.set_ylabel("validation accuracy (%)")
    known = {
        label: [point for point in points if not math.isnan(point[1])]
        for label, points in curves.items()
    }
    known = {label: points for label, points in known.items() if points}
    if not known:
        axes.text(0.5, 0.5, "no validation accuracy recorded", ha="center", color=GREY)
        return
    alpha = min(0.15, 0.6 / len(known))  # of many bands, one over the other
    for label, points in known.items():
        color, dashes, _ = styles[label]
        epochs = [epoch + 1 for epoch, _, _ in points]
        means = [mean for _, mean, _ in points]
        stds = [0.0 if math.isnan(std) else std for _, _, std in points]
        lower = [mean - std for mean, std in zip(means, stds, strict=True)]
        upper = [mean + std for mean, std in zip(means, stds, strict=True)]
        axes.fill_between(epochs, lower, upper, color=color, alpha=alpha, linewidth=0)
        marker = "o" if len(points) == 1 else ""
        axes.plot(epochs, means, color=color, linestyle=dashes, linewidth=1.6, marker=marker)
    _limit_curves(axes, known)
    _name_curves(axes, known, styles, line_height)


def _limit_curves(axes: Axes, curves: Curves) -> None:
    """Leave the steep first quarter below the panel: what differs between methods comes later."""
    from matplotlib.ticker import MaxNLocator

    last = max(points[-1][0] for points in curves.values())
    late = [mean for points in curves.values() for epoch, mean, _ in points if epoch >= last // 4]
    low, high = min(late), max(late)
    margin = max(0.06 * (high - low), 0.25)
    axes.set_ylim(max(low - margin, -1), min(high + margin, 101))
    axes.set_xlim(min(1, last), last + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _name_curves(
    axes: Axes, curves: Curves, styles: Mapping[str, Style], line_height: float
) -> None:
    """Names at the curves' ends, moved apart where they would collide: no legend to look up."""
    low, high = axes.get_ylim()
    order = sorted(curves, key=lambda label: curves[label][-1][1])
    wanted = [(curves[label][-1][1] - low) / (high - low) for label in order]
    places = spread(wanted, gap=line_height, low=0.0, high=1.0)
    for label, place in zip(order, places, strict=True):
        epoch, mean, _ = curves[label][-1]
        color, dashes, _ = styles[label]
        axes.annotate(
            label,
            xy=(epoch + 1, mean),
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            fontsize=LABEL_PT,
            arrowprops=LEADER | {"color": color, "linestyle": dashes, "relpos": (0, 0.5)},
        )
