"""What the pictures of a comparison share: colours, axes, and names that never cover one another.

Drawn with matplotlib's object interface, so that no global state or display is touched. Importing
this module does not import matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.runs import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Okabe & Ito, "Color Universal Design" (2008), without yellow, which is faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")
GREY, FAINT = "#444444", "#DDDDDD"
DPI = 150
LABEL_PT = 9
LEADER = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0}
MOST = 24  # configurations in one picture: of more, the best
_RINGS = (7, 12, 19, 29, 41, 56, 74, 96, 122, 152)  # points from a mark to its name
_DIRECTIONS = 16
_STEPS = 24  # places on a line that are looked at
_MARK = 9.0  # pixels around a point's middle

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


def name_points(
    axes: Axes,
    points: Mapping[str, Point],
    colors: Mapping[str, str],
    *,
    bars: Sequence[tuple[Point, Point]] = (),
) -> None:
    """Write each point's name near it, where it covers no other text, no point and no bar.

    A thin line leads from a name that is not beside its point. Axes must not change afterwards.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays it out: from here on, places in pixels are final
    marks = _marks(axes, list(points.values()), bars)
    texts = [text.get_window_extent() for text in axes.texts]
    # The crowded ones choose last: where there is room, a name stays beside its point.
    for label in sorted(points, key=lambda name: -_isolation(axes, name, points)):
        texts.append(_name_point(axes, label, points[label], colors[label], marks, texts))


def _marks(axes: Axes, points: Sequence[Point], bars: Sequence[tuple[Point, Point]]) -> list[Bbox]:
    """What points and bars cover, in pixels."""
    from matplotlib.transforms import Bbox

    marks = [Bbox([_pixels(axes, point), _pixels(axes, point)]) for point in points]
    lines = [Bbox([_pixels(axes, low), _pixels(axes, high)]) for low, high in bars]
    return [mark.padded(_MARK) for mark in marks] + [line.padded(2) for line in lines]


def _name_point(
    axes: Axes,
    label: str,
    point: Point,
    color: str,
    marks: Sequence[Bbox],
    texts: Sequence[Bbox],
) -> Bbox:
    """Write one name where nothing is; returns what it covers, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = _pixels(axes, point)
    probe = axes.text(0, 0, label, fontsize=LABEL_PT)
    size = probe.get_window_extent()
    probe.remove()
    dx, dy, is_far = _free_place((x, y), (size.width, size.height), marks, texts, axes.bbox)
    # The line leads to the name's nearest edge.
    relpos = [
        min(1.0, max(0.0, -gap / side)) for gap, side in ((dx, size.width), (dy, size.height))
    ]
    leader = LEADER | {"color": color, "relpos": tuple(relpos)}
    name = axes.annotate(
        label,
        xy=point,
        xytext=(dx, dy),
        textcoords="offset pixels",
        ha="left",
        va="bottom",
        fontsize=LABEL_PT,
        color=color,
        arrowprops=leader if is_far else None,
    )
    name.set_in_layout(False)  # or it would move the axes that it was placed by
    return Bbox.from_bounds(x + dx, y + dy, size.width, size.height).padded(2)


def _pixels(axes: Axes, point: Point) -> Point:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _isolation(axes: Axes, label: str, points: Mapping[str, Point]) -> float:
    """The distance of a point's nearest neighbour, in pixels."""
    here = _pixels(axes, points[label])
    others = (_pixels(axes, point) for name, point in points.items() if name != label)
    return min((math.dist(here, other) for other in others), default=math.inf)


def _free_place(
    point: Point,
    size: tuple[float, float],
    marks: Sequence[Bbox],
    texts: Sequence[Bbox],
    frame: Bbox,
) -> tuple[float, float, bool]:
    """From a point to its name's lower left corner, in pixels, and whether that is far off.

    Rings of places are tried from the inside out; no line to a name may cross a text. Where no
    place is free, the name covers something.
    """
    from matplotlib.transforms import Bbox

    width, height = size
    for ring in _RINGS:
        for step in range(_DIRECTIONS):
            # To the right, and from there on both sides in turn.
            angle = math.pi * (step + step % 2) / _DIRECTIONS * (-1 if step % 2 else 1)
            distance = ring * DPI / 72
            dx = math.cos(angle) * (distance + width / 2) - width / 2
            dy = math.sin(angle) * (distance + height / 2) - height / 2
            box = Bbox.from_bounds(point[0] + dx, point[1] + dy, width, height)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            covers = any(box.overlaps(other) for other in (*marks, *texts))
            if inside and not covers and not _crosses(point, box, texts):
                return dx, dy, ring > _RINGS[0]
    return _RINGS[0] * DPI / 72, -height / 2, False


def _crosses(point: Point, box: Bbox, texts: Sequence[Bbox]) -> bool:
    """Whether the line from a point to the nearest of a box runs over a text."""
    x, y = point
    dx = min(max(x, box.x0), box.x1) - x
    dy = min(max(y, box.y0), box.y1) - y
    line = [(x + dx * i / _STEPS, y + dy * i / _STEPS) for i in range(_STEPS)]
    return any(text.contains(*place) for place in line for text in texts)
