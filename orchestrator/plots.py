"""One picture of a comparison: test accuracy by method, and how each got there.

Drawn with matplotlib's object interface, so that no global state or display is touched. Importing
this module does not import matplotlib.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.comparison import finished_runs, label_runs, mean_and_std, teacher_accuracies
from orchestrator.runs import RunFolder, index, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito, "Color Universal Design" (2008), without yellow, which is faint on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_GREY, _FAINT = "#444444", "#DDDDDD"
_DPI = 150
_LABEL_PT = 9
_LEADER = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0}

Curves = Mapping[str, list[tuple[int, float, float]]]  # label -> (epoch, mean, std), in percent
_Style = tuple[str, Any]  # colour and dashes


def plot_comparison(runs: list[RunFolder], path: Path, *, title: str) -> None:
    """Write the finished ``runs`` as one PNG of two panels, atomically.

    Left: each method's last test accuracy, every seed a dot, mean and sample standard deviation
    over them, best first, and the teachers as dashed lines. Right: validation accuracy by epoch,
    mean and the same spread. Raises ValueError where no run is finished.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = index(runs)
    finished = finished_runs(table)
    labels = label_runs(finished)
    scores, curves = _scores(finished, labels), _curves(finished, labels)
    if not scores:
        raise ValueError("plot: none of the runs is finished; let one end, then plot")
    styles = {
        label: (_PALETTE[place % len(_PALETTE)], _DASHES[place // len(_PALETTE) % len(_DASHES)])
        for place, label in enumerate(sorted(set(labels)))
    }
    height = max(4.6, 2.0 + 0.3 * len(scores))
    figure = Figure(figsize=(13, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    teachers = [(name, 100 * accuracy) for name, accuracy, _ in teacher_accuracies(table)]
    _draw_scores(left, scores, teachers, styles)
    # The panel is about seven tenths of the figure; the teachers' names take the rest.
    line_height = 1.35 * _LABEL_PT / 72 / (0.7 * height)
    _draw_curves(right, curves, styles, line_height=line_height)
    write_atomically(path, lambda draft: figure.savefig(draft, format="png"))


def _scores(runs: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, list[float]]:
    """Every seed's test accuracy in percent by label, the best mean last (on top)."""
    scores: dict[str, list[float]] = defaultdict(list)
    for run, label in zip(runs, labels, strict=True):
        if not math.isnan(run["test_accuracy"]):
            scores[label].append(100 * run["test_accuracy"])
    return dict(sorted(scores.items(), key=lambda item: mean_and_std(item[1])[0]))


def _curves(runs: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Curves:
    seeds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, label in zip(runs, labels, strict=True):
        metrics = RunFolder(Path(run["path"])).metrics()
        if "accuracy/validation" in metrics:
            pairs = zip(metrics["epoch"], metrics["accuracy/validation"], strict=True)
            for epoch, accuracy in pairs:
                seeds[label][int(epoch)].append(100 * float(accuracy))
    return {
        label: [(epoch, *mean_and_std(values)) for epoch, values in sorted(epochs.items())]
        for label, epochs in seeds.items()
    }


def _draw_scores(
    axes: Axes,
    scores: Mapping[str, list[float]],
    teachers: Sequence[tuple[str, float]],
    styles: Mapping[str, _Style],
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
    _clean(axes, grid="x")
    axes.set_xlabel("test accuracy in % (dot: a seed, tick: mean, bar: ± standard deviation)")
    _draw_teachers(axes, teachers)


def _draw_teachers(axes: Axes, teachers: Sequence[tuple[str, float]]) -> None:
    """Dashed lines, their names slanted above the panel, moved apart where they would collide."""
    low, high = axes.get_xlim()
    wanted = [(accuracy - low) / (high - low) for _, accuracy in teachers]
    places = spread(wanted, gap=0.055, low=0.0, high=0.97)
    for (name, accuracy), place in zip(teachers, places, strict=True):
        axes.axvline(accuracy, color=_GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        axes.annotate(
            f"{name} {accuracy:.1f}",
            xy=(accuracy, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(place, 1.045),
            textcoords="axes fraction",
            rotation=40,
            rotation_mode="anchor",
            fontsize=_LABEL_PT,
            color=_GREY,
            arrowprops=_LEADER | {"color": _GREY, "relpos": (0.08, 0)},
        )


def _draw_curves(
    axes: Axes, curves: Curves, styles: Mapping[str, _Style], *, line_height: float
) -> None:
    """Curves with their names; ``line_height`` of a name is a fraction of the panel's."""
    _clean(axes, grid="y")
    axes.set_xlabel("epoch (line: mean over seeds, band: ± standard deviation)")
    axes.set_ylabel("validation accuracy (%)")
    known = {
        label: [point for point in points if not math.isnan(point[1])]
        for label, points in curves.items()
    }
    known = {label: points for label, points in known.items() if points}
    if not known:
        axes.text(0.5, 0.5, "no validation accuracy recorded", ha="center", color=_GREY)
        return
    for label, points in known.items():
        color, dashes = styles[label]
        epochs = [epoch + 1 for epoch, _, _ in points]
        means = [mean for _, mean, _ in points]
        stds = [0.0 if math.isnan(std) else std for _, _, std in points]
        lower = [mean - std for mean, std in zip(means, stds, strict=True)]
        upper = [mean + std for mean, std in zip(means, stds, strict=True)]
        axes.fill_between(epochs, lower, upper, color=color, alpha=0.12, linewidth=0)
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
    axes: Axes, curves: Curves, styles: Mapping[str, _Style], line_height: float
) -> None:
    """Names at the curves' ends, moved apart where they would collide: no legend to look up."""
    low, high = axes.get_ylim()
    order = sorted(curves, key=lambda label: curves[label][-1][1])
    wanted = [(curves[label][-1][1] - low) / (high - low) for label in order]
    places = spread(wanted, gap=line_height, low=0.0, high=1.0)
    for label, place in zip(order, places, strict=True):
        epoch, mean, _ = curves[label][-1]
        color, dashes = styles[label]
        axes.annotate(
            label,
            xy=(epoch + 1, mean),
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            fontsize=_LABEL_PT,
            arrowprops=_LEADER | {"color": color, "linestyle": dashes, "relpos": (0, 0.5)},
        )


def _clean(axes: Axes, *, grid: Literal["x", "y"]) -> None:
    axes.grid(visible=True, axis=grid, color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places as near as may be to ``wanted``, at least ``gap`` apart, in [low, high] if they fit.

    Their order is kept. Neighbours that are too close form a block around their mean, as in
    isotonic regression by pooling adjacent violators (Barlow et al. 1972).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # mean of (wanted - rank * gap), members
    highest = high - gap * (len(wanted) - 1)
    for rank, i in enumerate(order):
        block = (wanted[i] - rank * gap, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, count = blocks.pop()
            total = mean * count + block[0] * block[1]
            block = (total / (count + block[1]), count + block[1])
        blocks.append(block)
    shifted = [max(low, min(mean, highest)) for mean, count in blocks for _ in range(count)]
    places = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        places[i] = shifted[rank] + rank * gap
    return places
