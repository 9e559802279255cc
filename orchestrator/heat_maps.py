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
_WRITTEN_CLASSES = 30  # cells of so few are high enough for their numbers
_PT = 9
_TALLEST = 20.0  # inches
_LONGEST = 18  # characters of a name


def draw_weights(
    weights: Float64[np.ndarray, "T C"],
    *,
    teachers: Sequence[str],
    classes: Sequence[str],
    title: str,
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of class × teacher: red counts more than an even share, blue less.

    The colours run from 0 to twice the even share, so that pictures of one run can be compared.
    Classes whose weights are NaN are grey. Classes go down the page, and it is narrow: so it can be
    read as it is in TensorBoard's cards, which shrink wide pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_teachers, num_classes = weights.shape
    known = weights[:, ~np.isnan(weights).any(axis=0)]
    even = float(known.mean()) if known.size else 1 / num_teachers
    is_written = num_classes <= _WRITTEN_CLASSES
    height = 1.5 + max(1.5, num_classes * (0.3 if is_written else 0.15))
    figure = Figure(
        figsize=(2.5 + 0.65 * num_teachers, min(height, _TALLEST)), dpi=_DPI, layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor("#999999")
    mesh = axes.imshow(
        weights.T, cmap="RdBu_r", vmin=0, vmax=2 * even, aspect="auto", interpolation="nearest"
    )
    bar = figure.colorbar(mesh, ax=axes, ticks=[0, even, 2 * even], format="%.2f", pad=0.02)
    bar.ax.tick_params(labelsize=_PT)
    bar.set_label("white: an even share", fontsize=_PT)
    figure.suptitle(title, fontsize=_PT + 1)
    _name_cells(axes, teachers, classes)
    if is_written:
        _write_numbers(axes, weights.T, even)
    canvas.draw()
    pixels: Any = canvas.buffer_rgba()
    return np.asarray(pixels)[..., :3].copy()


def _name_cells(axes: Axes, teachers: Sequence[str], classes: Sequence[str]) -> None:
    axes.xaxis.tick_top()
    names = [_short(name) for name in teachers]
    axes.set_xticks(
        range(len(names)), names, fontsize=_PT, rotation=30, ha="left", rotation_mode="anchor"
    )
    if len(classes) > _NAMED_CLASSES:
        axes.set_ylabel("class", fontsize=_PT)
        return
    size = _PT if len(classes) <= _WRITTEN_CLASSES else _PT - 2
    axes.set_yticks(range(len(classes)), [_short(name) for name in classes], fontsize=size)


def _write_numbers(axes: Axes, weights: Float64[np.ndarray, "C T"], even: float) -> None:
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
