"""The pictures of a comparison: what stands where, and that no name covers another."""

from __future__ import annotations

import itertools
import math
import random
import struct
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from orchestrator.cost_plot import draw_cost, pareto_front
from orchestrator.drawing import MOST, NothingToDraw, is_log_like, save, spread
from orchestrator.plots import draw_comparison
from orchestrator.run_index import index
from orchestrator.runs import find_runs
from orchestrator.trial_plot import draw_trials, make_axis
from orchestrator.weight_plot import courses, draw_weights_over_epochs
from tests.run_folders import make_run, make_runs, make_trial, weigh

NAMES = (
    *("ce", "kd", "dkd", "ebkd", "camkd", "aekd", "fitnet", "at"),
    *("sp", "rkd", "pkt", "simkd", "amtml", "mmkd", "gpac", "atsc"),
)
TEACHERS = {
    "cnn_m": {"accuracy": 0.902, "parameters": 120_000},
    "dscnn_m": {"accuracy": 0.911, "parameters": 90_000},
    "resnet8": {"accuracy": 0.915, "parameters": 78_000},
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Sixteen methods of three seeds, near one another in accuracy and cost, as methods are."""
    root, draw = tmp_path_factory.mktemp("many"), random.Random(0)
    for place, name in enumerate(NAMES):
        level = 0.84 + 0.002 * (place % 8)
        for seed in range(3):
            accuracy = level + draw.gauss(0, 0.003)
            curve = [accuracy - 0.3 * math.exp(-epoch / 4) for epoch in range(12)]
            make_run(
                root,
                name,
                seed,
                accuracy=accuracy,
                curve=curve,
                seconds=100 * (1 + place % 5 / 20) * (15 if name == "atsc" else 1),
                parameters=7_400 if name == "simkd" else 6_000,
                teachers=TEACHERS,
            )
    return index(find_runs(root))


def covering(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of level texts of which one covers the other, or the figure's edge cuts one."""
    figure.canvas.draw()
    texts = [t for axes in figure.axes for t in axes.texts if t.get_text() and not t.get_rotation()]
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts]
    cut = [(a, "edge") for a, box in boxes if not _within(box, figure.bbox)]
    pairs = itertools.combinations(boxes, 2)
    return cut + [(a, b) for (a, box), (b, other) in pairs if box.padded(-1).overlaps(other)]


def _within(box, frame) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_sixteen_methods_are_all_named_and_no_name_covers_another(many: pd.DataFrame) -> None:
    for figure in (draw_comparison(many, title="many"), draw_cost(many, title="many")):
        names = [text.get_text() for text in figure.axes[1].texts]
        assert set(NAMES) <= set(names)
        assert covering(figure) == []


def test_long_names_in_a_crowd_cover_bars_before_they_cover_names(tmp_path: Path) -> None:
    draw = random.Random(0)
    for i in range(MOST):
        place = {"seconds": 320 + draw.gauss(0, 5), "experiment": f"experiment{i % 3}"}
        for seed, noise in enumerate((-0.01, 0.01)):
            accuracy = 0.83 + draw.gauss(0, 0.004) + noise
            make_run(tmp_path, "amtml", seed, accuracy=accuracy, digest=f"{i:08x}", **place)
    assert covering(draw_cost(index(find_runs(tmp_path)))) == []


def test_a_picture_is_a_png_of_its_own_size(many: pd.DataFrame, tmp_path: Path) -> None:
    save(draw_comparison(many), tmp_path / "plot.png")
    head = (tmp_path / "plot.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:])[0] == 13 * 150


def test_of_too_many_configurations_the_best_are_drawn_and_the_title_says_so(
    tmp_path: Path,
) -> None:
    runs = make_runs(tmp_path, {f"m{i}": [0.5 + i / 100] for i in range(MOST + 3)})
    figure = draw_comparison(index(runs), title="toy")
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [f"m{i}" for i in range(3, MOST + 3)]
    assert figure.get_suptitle() == f"toy (the best {MOST} of {MOST + 3})"


def test_without_a_tested_run_there_is_nothing_to_draw(tmp_path: Path) -> None:
    table = index([make_run(tmp_path, "kd", 0)])
    for draw in (draw_comparison, draw_cost, draw_weights_over_epochs):
        with pytest.raises(NothingToDraw, match="no run has a test accuracy"):
            draw(table)


def test_spread_moves_labels_apart_and_no_further() -> None:
    assert spread([0.9, 0.1], gap=0.1, low=0, high=1) == [0.9, 0.1]
    assert spread([0.5, 0.5], gap=0.1, low=0, high=1) == pytest.approx([0.45, 0.55])
    crowded = spread([1.0, 1.0, 0.99], gap=0.1, low=0, high=1)
    assert crowded == pytest.approx([0.9, 1.0, 0.8])


def test_the_front_has_what_nothing_as_cheap_beats() -> None:
    points = [(1.0, 5.0), (1.0, 6.0), (2.0, 5.5), (3.0, 7.0), (4.0, 7.0), (0.5, 1.0)]
    assert pareto_front(points) == [(0.5, 1.0), (1.0, 6.0), (3.0, 7.0)]
    assert pareto_front(points[::-1]) == pareto_front(points)


def test_costs_have_a_panel_where_they_differ_and_teachers_one_beside_parameters(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, "ce", 0, accuracy=0.5, seconds=10.0)
    make_run(tmp_path, "kd", 0, accuracy=0.6, seconds=20.0)
    (seconds,) = draw_cost(index(find_runs(tmp_path))).axes
    assert seconds.get_xlabel().startswith("training seconds")
    assert {text.get_text() for text in seconds.texts} == {"Pareto front", "ce", "kd"}
    make_run(tmp_path, "at", 0, accuracy=0.6, seconds=20.0, parameters=1500)
    _, parameters = draw_cost(index(find_runs(tmp_path))).axes
    names = {text.get_text() for text in parameters.texts}
    assert names == {"Pareto front", "ce", "kd", "at", "big (teacher)"}


def test_weights_are_means_over_samples_then_over_seeds(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "camkd", seed, accuracy=0.6) for seed in (0, 1)]
    for run, weight in zip(runs, (0.2, 0.4), strict=True):
        weigh(run, {"a": [0.5, weight], "b": [0.5, 1 - weight]}, kind="teacher_weight")
        table = pd.read_parquet(run.path / "weights.parquet")
        table.loc[(table["epoch"] == 1) & (table["class"] == 0), "weight"] += 0.4  # one of 4
        table.to_parquet(run.path / "weights.parquet")
    lines = courses(("camkd", run) for run in runs)["camkd", "teacher_weight"]
    assert lines["a"][0] == (0, 0.5, 0.0)
    assert lines["a"][1] == pytest.approx((1, 0.4, math.sqrt(0.02)))
    assert lines["b"][1][1] == pytest.approx(0.8)


def test_every_kind_of_weights_has_a_panel(tmp_path: Path) -> None:
    for method, kind in (("camkd", "teacher_weight"), ("mmkd", "feature_weight")):
        run = make_run(tmp_path, method, 0, accuracy=0.6)
        weigh(run, {"a": [0.2, 0.3], "b": [0.8, 0.7]}, kind=kind)
    make_run(tmp_path, "kd", 0, accuracy=0.6)
    figure = draw_weights_over_epochs(index(find_runs(tmp_path)))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["camkd: teacher weight", "mmkd: feature weight"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 4, 8, 16], True),
        ([0.001, 0.01, 0.1], True),
        ([0.1 * i for i in range(1, 11)], False),  # uniform, over a decade too
        ([1, 2, 3], False),
        ([0, 1, 10, 100], False),
        ([-1, 10, 100], False),
    ],
)
def test_an_axis_is_logarithmic_where_that_spreads_the_values(
    values: list[float], expected: bool
) -> None:
    assert is_log_like(values) is expected


def test_numbers_and_names_stand_on_an_axis_in_their_order() -> None:
    log = make_axis("method.temperature", [1, 4, 16])
    assert log.title == "temperature\n(log)"
    assert [log.place(value) for value in (1, 4, 16)] == pytest.approx([0, 0.5, 1])
    linear = make_axis("optimizer.momentum", [0.5, 0.6, 0.9])
    assert linear.title == "optimizer\nmomentum"
    assert linear.place(0.6) == pytest.approx(0.25)
    names = make_axis("student.arch", ["cnn_s", "cnn_xs", "dscnn_s", "cnn_s"])
    assert [text for _, text in names.ticks] == ["cnn_s", "cnn_xs", "dscnn_s"]
    assert [place for place, _ in names.ticks] == [0, 0.5, 1]
    switch = make_axis("optimizer.nesterov", [True, False, None])
    assert [text for _, text in switch.ticks] == ["false", "true", "–"]


def test_trials_end_at_their_score_and_the_failed_apart(tmp_path: Path) -> None:
    for number, score in enumerate([0.6, 0.8, None, 0.7]):
        make_trial(tmp_path, number, {"method.temperature": 1.0 + number}, score=score)
    (axes,) = draw_trials(index(find_runs(tmp_path))).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_zorder() == 2]
    ends = [line.get_ydata()[-1] for line in lines]
    assert ends == pytest.approx([-0.14, 0, 0.5, 1])  # the best is drawn last, on top
    assert lines[-1].get_linewidth() > lines[-2].get_linewidth()
    assert len({line.get_color() for line in lines}) == 4


def test_the_best_trial_is_one_that_finished(tmp_path: Path) -> None:
    make_trial(tmp_path, 0, {"method.temperature": 1.0}, score=0.9, ended="stopped")
    make_trial(tmp_path, 1, {"method.temperature": 2.0}, score=0.8)
    (axes,) = draw_trials(index(find_runs(tmp_path))).axes
    (best,) = [line for line in axes.lines if line.get_linewidth() > 3]
    assert list(best.get_ydata()) == [1, 0]  # the higher temperature, the lower score


def test_trials_of_many_settings_are_legible(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(40):
        values = {
            "method.temperature": draw.choice([1.0, 2.0, 4.0, 8.0]),
            "method.corrector": draw.choice(["blend", "scale", "none"]),
            "method.levels[1]": draw.uniform(0.2, 1.5),
            "optimizer.lr": 10 ** draw.uniform(-4, -0.5),
            "optimizer.nesterov": draw.choice([False, True]),
            "schedule.batch_size": draw.choice([32, 64, 128]),
        }
        score = None if number % 9 == 4 else draw.uniform(0.6, 0.9)
        make_trial(tmp_path, number, values, score=score, ended="stopped" if number % 3 else "")
    figure = draw_trials(index(find_runs(tmp_path)), title="toy")
    assert covering(figure) == []


def test_trials_that_cannot_be_told_apart_are_not_drawn(tmp_path: Path) -> None:
    make_trial(tmp_path, 0, {"method.temperature": 1.0}, score=None)
    with pytest.raises(NothingToDraw, match="no trial has a validation accuracy"):
        draw_trials(index(find_runs(tmp_path)))
