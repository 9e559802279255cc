"""A probe table for people: printed, drawn as a heat map, and in TensorBoard.

Drawn with matplotlib's object interface, so that no global state or display is touched. Importing
this module does not import matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill.config import Experiment
from distill.probes import ProbeTable
from orchestrator.probe_tables import Marks

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

    from orchestrator.probing import Probed

_DPI = 150
_CHOSEN = "#D55E00"  # Okabe & Ito, "Color Universal Design" (2008)
_WHITE_ABOVE = 0.55  # of the colour scale: below it, black letters are the ones to read


def report(experiment: Experiment, probed: Probed) -> None:
    """Print the table, what it chooses, where it lies and how it is used."""
    from rich.console import Console

    console = Console()
    console.print(printed_table(probed.table, probed.marks, title=experiment.name))
    names = [teacher.name for teacher in experiment.teachers]
    chosen = ", ".join(f"s{stage} from {names[index]}" for stage, index in probed.groups)
    lines = (
        f"chosen:   {chosen}",
        f"table:    {probed.file}",
        f"picture:  {probed.picture}",
        f"use it:   -s method=gpac -s method.probes={probed.file}",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def columns_of(table: ProbeTable) -> list[str]:
    """Every tap of any teacher, each once, in the teachers' order."""
    return list(dict.fromkeys(tap for row in table.accuracy.values() for tap in row))


def printed_table(table: ProbeTable, marks: Marks, *, title: str) -> Table:
    """One row a teacher, one column a tap, in percent; a chosen entry names its stages."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = columns_of(table)
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    shown.add_column("probe accuracy in %")
    for tap in columns:
        shown.add_column(tap, justify="right", no_wrap=True)
    for teacher, row in table.accuracy.items():
        cells = [Text(teacher)]
        for tap in columns:
            stages = _stages(marks.get((teacher, tap), ()))
            value = f"{100 * row[tap]:.2f}" if tap in row else "–"
            cells.append(Text(f"{stages} {value}".strip(), style="bold" if stages else ""))
        shown.add_row(*cells)
    return shown


def _stages(stages: Sequence[int]) -> str:
    return ",".join(f"s{stage}" for stage in stages)


def heat_map(table: ProbeTable, marks: Marks, *, title: str) -> Figure:
    """Teacher × tap, in percent; chosen entries are framed and name the student's stages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    teachers, columns = list(table.accuracy), columns_of(table)
    percent = np.full((len(teachers), len(columns)), np.nan)
    for line, row in enumerate(table.accuracy.values()):
        for tap, accuracy in row.items():
            percent[line, columns.index(tap)] = 100 * accuracy
    size = (3.2 + 1.3 * len(columns), 1.7 + 0.65 * len(teachers))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(percent, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(teachers)), teachers)
    axes.tick_params(length=0)
    axes.set_title(f"{title}: linear probes of the teachers' stages", fontsize=11)
    figure.colorbar(image, label="accuracy in %, held-out training images")
    _write_entries(axes, percent)
    for (teacher, tap), stages in marks.items():
        _frame(axes, teachers.index(teacher), columns.index(tap), _stages(stages))
    return figure


def _write_entries(axes: Axes, percent: Float[np.ndarray, "teachers taps"]) -> None:
    low, high = np.nanmin(percent), np.nanmax(percent)
    for (line, column), value in np.ndenumerate(percent):
        if not np.isnan(value):
            dark = high > low and (value - low) / (high - low) > _WHITE_ABOVE
            color = "white" if dark else "black"
            axes.text(column, line, f"{value:.1f}", ha="center", va="center", color=color)


def _frame(axes: Axes, line: int, column: int, text: str) -> None:
    from matplotlib.patches import Rectangle

    inset, side = 0.46, 0.92
    corner = (column - inset, line - inset)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=_CHOSEN, linewidth=2.2))
    label = {"boxstyle": "square,pad=0.2", "facecolor": _CHOSEN, "edgecolor": "none"}
    axes.text(
        *corner,
        text,
        ha="left",
        va="top",
        fontsize=7.5,
        color="white",
        fontweight="bold",
        bbox=label,
    )


def log_table(table: ProbeTable, figure: Figure, events: Path) -> None:
    """Each entry as a scalar, and the heat map, as TensorBoard's events in place of older ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from torch.utils.tensorboard import SummaryWriter

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    with SummaryWriter(str(events), purge_step=0) as writer:
        writer.add_image("probes", pixels, dataformats="HWC")
        for teacher, row in table.accuracy.items():
            for tap, accuracy in row.items():
                writer.add_scalar(f"probes/{teacher}/{tap}", accuracy)
