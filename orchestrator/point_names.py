"""Names beside points, in a picture with many of both, so that no name covers another.

Importing this module does not import matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from orchestrator.drawing import DPI, LABEL_PT, LEADER, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_RINGS = (7, 12, 19, 29, 41, 56, 74, 96, 122, 152)  # points from a mark to its name
_DIRECTIONS = 16
_MARK, _LINE = 9.0, 2.0  # pixels around a point's middle, and around a line
_STEPS = 24  # places on a leading line that are looked at


@final
@dataclass(frozen=True, slots=True)
class _Obstacles:
    """What a name should not cover, in pixels."""

    frame: Bbox
    points: Sequence[Bbox]
    lines: Sequence[Bbox]
    names: list[Bbox] = field(default_factory=list)

    def tiers(self) -> Iterator[tuple[Sequence[Bbox], Sequence[Bbox]]]:
        """What a name must not cover, and its leading line not cross: less from tier to tier."""
        yield [*self.names, *self.points, *self.lines], self.names
        yield [*self.names, *self.points], self.names
        yield self.names, self.names
        yield self.names, ()


def name_points(
    axes: Axes,
    points: Mapping[str, Point],
    colors: Mapping[str, str],
    *,
    lines: Sequence[tuple[Point, Point]] = (),
) -> None:
    """Write each point's name near it, where it covers no other text, point or upright line.

    A thin line leads from a name that is not beside its point. Axes must not change afterwards.
    """
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays it out: from here on, places in pixels are final
    places = [_pixels(axes, point) for point in points.values()]
    ends = [(_pixels(axes, low), _pixels(axes, high)) for low, high in lines]
    obstacles = _Obstacles(
        axes.bbox,
        [Bbox([place, place]).padded(_MARK) for place in places],
        [Bbox(both).padded(_LINE) for both in ends],
        [text.get_window_extent() for text in axes.texts],
    )
    # The crowded ones choose last: where there is room, a name stays beside its point.
    for label in sorted(points, key=lambda name: -_isolation(axes, name, points)):
        _name(axes, label, points[label], colors[label], obstacles)


def _name(axes: Axes, label: str, point: Point, color: str, obstacles: _Obstacles) -> None:
    """Write one name where nothing is, and count it among the obstacles."""
    probe = axes.text(0, 0, label, fontsize=LABEL_PT)
    size = probe.get_window_extent()
    probe.remove()
    here = _pixels(axes, point)
    box, is_far = _free_place(here, (size.width, size.height), obstacles)
    dx, dy = box.x0 - here[0], box.y0 - here[1]
    # The line leads to the name's nearest edge.
    across = min(1.0, max(0.0, -dx / size.width))
    up = min(1.0, max(0.0, -dy / size.height))
    leader = LEADER | {"color": color, "relpos": (across, up)}
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
    obstacles.names.append(box.padded(_LINE))


def _pixels(axes: Axes, point: Point) -> Point:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _isolation(axes: Axes, label: str, points: Mapping[str, Point]) -> float:
    """The distance of a point's nearest neighbour, in pixels."""
    here = _pixels(axes, points[label])
    others = (_pixels(axes, point) for name, point in points.items() if name != label)
    return min((math.dist(here, other) for other in others), default=math.inf)


def _free_place(
    point: Point, size: tuple[float, float], obstacles: _Obstacles
) -> tuple[Bbox, bool]:
    """The nearest place for a name, in pixels, and whether that is too far to do without a line.

    Where not even the other names leave a place, the name stands beside its point.
    """
    boxes = list(_boxes(point, size))
    frame = obstacles.frame
    for taken, crossed in obstacles.tiers():
        for box, is_far in boxes:
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            free = inside and not any(box.overlaps(other) for other in taken)
            if free and not _crosses(point, box, crossed):
                return box, is_far
    return boxes[0]


def _boxes(point: Point, size: tuple[float, float]) -> Iterator[tuple[Bbox, bool]]:
    """Places around a point, from the inside out, and whether they are beyond the first ring."""
    from matplotlib.transforms import Bbox

    (x, y), (width, height) = point, size
    for ring in _RINGS:
        for step in range(_DIRECTIONS):
            # To the right, and from there on both sides in turn.
            angle = math.pi * (step + step % 2) / _DIRECTIONS * (-1 if step % 2 else 1)
            distance = ring * DPI / 72
            left = x + math.cos(angle) * (distance + width / 2) - width / 2
            bottom = y + math.sin(angle) * (distance + height / 2) - height / 2
            yield Bbox.from_bounds(left, bottom, width, height), ring > _RINGS[0]


def _crosses(point: Point, box: Bbox, names: Sequence[Bbox]) -> bool:
    """Whether the line from a point to the nearest of a box runs over a name."""
    x, y = point
    dx = min(max(x, box.x0), box.x1) - x
    dy = min(max(y, box.y0), box.y1) - y
    line = [(x + dx * i / _STEPS, y + dy * i / _STEPS) for i in range(_STEPS)]
    return any(name.contains(*place) for place in line for name in names)
