"""Heat maps, as images: how much each teacher counts for each class.

Drawn with matplotlib's object interface, so that no global state or display is touched. Importing
this module does not import matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64, UInt8
    from matplotlib.axes import Axes

_DPI = 100
_NAMED_CLASSES = 120  # more names than this do not fit; the axis then counts
_WRITTEN_CLASSES = 20  # cells of so few are wide enough for their numbers
_PT = 9
_LONGEST = 18  # characters of a name


def draw_weights(
    weights: Float64[np.ndarray, "T C"],
    *,
    teachers: Sequence[str],
    classes: Sequence[str],
    title: str,
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of teacher × class: red counts more than an even share, blue less.

    The colours run from 0 to twice the even share, so that pictures of one run can be compared.
    Classes whose weights are NaN are grey.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_teachers, num_classes = weights.shape
    known = weights[:, ~np.isnan(weights).any(axis=0)]
    even = float(known.mean()) if known.size else 1 / num_teachers
    width = min(3.2 + max(4.0, num_classes * (0.62 if _is_written(num_classes) else 0.16)), 22.0)
    figure = Figure(figsize=(width, 2.1 + 0.45 * num_teachers), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor("#999999")
    mesh = axes.imshow(
        weights, cmap="RdBu_r", vmin=0, vmax=2 * even, aspect="auto", interpolation="nearest"
    )
    bar = figure.colorbar(mesh, ax=axes, ticks=[0, even, 2 * even], format="%.2f", pad=0.01)
    bar.ax.tick_params(labelsize=_PT)
    axes.set_title(f"{title} (white: an even share)", fontsize=_PT + 1, loc="left")
    axes.set_yticks(range(num_teachers), [_short(name) for name in teachers], fontsize=_PT)
    _name_classes(axes, classes)
    if _is_written(num_classes):
        _write_numbers(axes, weights, even)
    canvas.draw()
    pixels: Any = canvas.buffer_rgba()
    return np.asarray(pixels)[..., :3].copy()


def _is_written(num_classes: int) -> bool:
    return num_classes <= _WRITTEN_CLASSES


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    if len(classes) > _NAMED_CLASSES:
        axes.set_xlabel("class", fontsize=_PT)
        return
    few = _is_written(len(classes))
    axes.set_xticks(
        range(len(classes)),
        [_short(name) for name in classes],
        fontsize=_PT if few else _PT - 2,
        rotation=30 if few else 90,
        ha="right" if few else "center",
        rotation_mode="anchor" if few else "default",
    )


def _write_numbers(axes: Axes, weights: Float64[np.ndarray, "T C"], even: float) -> None:
    for (row, column), weight in np.ndenumerate(weights):
        if not np.isnan(weight):
            dark = abs(weight - even) > 0.6 * even  # the ends of the scale are dark
            axes.text(
                column,
                row,
                f"{weight:.2f}",
                ha="center",
                va="center",
                fontsize=_PT,
                color="white" if dark else "black",
            )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
