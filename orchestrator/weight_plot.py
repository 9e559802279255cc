"""How much each teacher counted, epoch by epoch, in the runs whose method weighs teachers.

Importing this module does not import matplotlib.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.comparison import mean_and_std
from orchestrator.drawing import GREY, NothingToDraw, Style, clean, new_figure, styles
from orchestrator.plots import shown_runs
from orchestrator.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3  # panels
Course = list[tuple[int, float, float]]  # (epoch, mean over seeds, standard deviation)
Panels = dict[tuple[str, str], dict[str, Course]]  # (configuration, kind) -> teacher


def draw_weights_over_epochs(index: pd.DataFrame, *, by: str = "method", title: str = "") -> Figure:
    """A panel for each configuration and kind of weights: a line a teacher, mean over all samples.

    Bands are the standard deviation over seeds. Raises NothingToDraw where no run weighs teachers,
    ConfigError for an unknown ``by``.
    """
    runs, _ = shown_runs(index, by=by)
    panels = courses((label, RunFolder(Path(run["path"]))) for label, run in runs)
    if not panels:
        raise NothingToDraw("no run's method weighs teachers")
    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = new_figure(2.0 + 4.4 * across, 1.2 + 3.0 * down)
    grid = figure.subplots(down, across, squeeze=False, sharex=True)
    chosen = styles(teacher for lines in panels.values() for teacher in lines)
    for axes, ((label, kind), lines) in zip(grid.flat, sorted(panels.items()), strict=False):
        _draw(axes, lines, chosen)
        axes.set_title(f"{label}: {kind.replace('_', ' ')}", fontsize=11)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(panels))
        axes.tick_params(labelbottom=place + across >= len(panels))  # with nothing below it
    figure.supxlabel(
        "epoch (line: mean over seeds, band: ± standard deviation; dotted: even share)"
    )
    _legend(figure, chosen)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure


def courses(runs: Iterable[tuple[str, RunFolder]]) -> Panels:
    """The mean weight of every teacher in every epoch, over the seeds of each configuration."""
    seeds: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    for label, run in runs:
        for (kind, teacher, epoch), weight in _means(run).items():
            lines = seeds.setdefault((label, kind), defaultdict(lambda: defaultdict(list)))
            lines[teacher][epoch].append(weight)
    return {
        panel: {
            teacher: [(epoch, *mean_and_std(values)) for epoch, values in sorted(epochs.items())]
            for teacher, epochs in lines.items()
        }
        for panel, lines in seeds.items()
    }


def _means(run: RunFolder) -> dict[tuple[str, str, int], float]:
    """By kind, teacher and epoch the mean over all samples: the table has it by class."""
    import pyarrow.parquet as pq

    from orchestrator.weights_by_class import weights_path

    path = weights_path(run)
    if not path.is_file():
        return {}
    with pq.ParquetFile(path) as file:
        table = file.read(
            columns=["kind", "teacher", "epoch", "weight", "samples"], use_threads=False
        ).to_pandas()
    table["total"] = table["weight"] * table["samples"]
    sums = table.groupby(["kind", "teacher", "epoch"])[["total", "samples"]].sum()
    return dict(zip(sums.index, sums["total"] / sums["samples"], strict=True))


def _draw(axes: Axes, lines: Mapping[str, Course], chosen: Mapping[str, Style]) -> None:
    from matplotlib.ticker import MaxNLocator

    clean(axes, grid="y")
    for teacher, points in lines.items():
        color, dashes, _ = chosen[teacher]
        epochs = [epoch + 1 for epoch, _, _ in points]
        means = [mean for _, mean, _ in points]
        stds = [0.0 if math.isnan(std) else std for _, _, std in points]
        lower = [mean - std for mean, std in zip(means, stds, strict=True)]
        upper = [mean + std for mean, std in zip(means, stds, strict=True)]
        axes.fill_between(epochs, lower, upper, color=color, alpha=0.15, linewidth=0)
        marker = "o" if len(points) == 1 else ""
        axes.plot(epochs, means, color=color, linestyle=dashes, linewidth=1.8, marker=marker)
    axes.axhline(_even(list(lines.values())), color=GREY, linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _even(lines: Sequence[Course]) -> float:
    """What each teacher would count if all counted alike: the mean of all."""
    return mean_and_std(mean for points in lines for _, mean, _ in points)[0]


def _legend(figure: Figure, chosen: Mapping[str, Style]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, linestyle=dashes, linewidth=2, label=teacher)
        for teacher, (color, dashes, _) in chosen.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
