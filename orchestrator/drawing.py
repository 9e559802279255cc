"""What the pictures of a comparison share: colours, axes, and places for names.

Drawn with matplotlib's object interface, so that no global state or display is touched. Importing
this module does not import matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.runs import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design" (2008), without yellow, which is faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")
GREY, FAINT = "#444444", "#DDDDDD"
DPI = 150
LABEL_PT = 9
LEADER = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0}
MOST = 24  # configurations in one picture: of more, the best

Style = tuple[str, Any, str]  # colour, dashes and marker
Point = tuple[float, float]


class NothingToDraw(ValueError):
    """A picture that would be empty; the message says why."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, whose parts are laid out without overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, all of it or nothing."""
    write_atomically(path, lambda draft: figure.savefig(draft, format="png"))


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A colour and dashes or a marker for each label: no two alike up to 28 of them."""
    count = len(PALETTE)
    return {
        label: (
            PALETTE[place % count],
            DASHES[place // count % len(DASHES)],
            MARKERS[place // count % len(MARKERS)],
        )
        for place, label in enumerate(sorted(set(labels)))
    }


def clean(axes: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    """A faint grid, and no frame at the top and the right."""
    axes.grid(visible=True, axis=grid, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def is_log_like(values: Sequence[float]) -> bool:
    """Whether positive values spread more evenly over a logarithmic axis than over a linear one."""
    low, high = min(values), max(values)
    if low <= 0 or high < 5 * low:
        return False
    linear = [(value - low) / (high - low) for value in values]
    logarithmic = [math.log(value / low) / math.log(high / low) for value in values]

    def skew(places: Sequence[float]) -> float:
        return abs(sum(places) / len(places) - 0.5)

    return skew(logarithmic) < skew(linear)


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
