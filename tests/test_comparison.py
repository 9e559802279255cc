"""The comparison over seeds: numbers, intervals, labels, and tables for people."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from distill.loading import ConfigError
from orchestrator.comparison import (
    compare,
    comparison_table,
    finished_runs,
    label_runs,
    t_quantile,
    teacher_accuracies,
)
from orchestrator.run_index import index
from orchestrator.runs import find_runs
from orchestrator.text_tables import TextTable
from orchestrator.trial_table import compare_trials, trials_table
from tests.run_folders import make_run, make_runs, make_trial


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    # Fisher & Yates' table of t.
    [
        *((0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776)),
        *((0.975, 9, 2.262), (0.975, 30, 2.042), (0.975, 120, 1.980), (0.95, 5, 2.015)),
        (0.5, 7, 0.0),
    ],
)
def test_t_quantiles_agree_with_the_table(
    probability: float, degrees: int, expected: float
) -> None:
    assert t_quantile(probability, degrees=degrees) == pytest.approx(expected, abs=6e-4)


def test_compare_gives_mean_spread_and_paired_interval(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {"ce": [0.5, 0.6, 0.7], "mmkd": [0.62, 0.69, 0.82]})
    table = compare(index(runs)).set_index("method")
    mmkd = table.loc["mmkd"]
    assert mmkd["num_seeds"] == mmkd["versus_ce_pairs"] == 3
    assert mmkd["test_accuracy_mean"] == pytest.approx(0.71)
    assert mmkd["test_accuracy_std"] == pytest.approx(0.1014889)
    assert mmkd["test_accuracy_best_mean"] == pytest.approx(0.72)
    # Differences 0.12, 0.09, 0.12: mean 0.11, std 0.0173205, half-width 4.302653·std/√3.
    assert mmkd["versus_ce"] == pytest.approx(0.11)
    assert mmkd["versus_ce_high"] == pytest.approx(0.11 + 0.0430265)
    assert mmkd["versus_ce_low"] == pytest.approx(0.11 - 0.0430265)
    assert math.isnan(table.loc["ce"]["versus_ce"])
    assert math.isnan(mmkd["versus_kd"])


def test_only_shared_seeds_are_paired(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "ce", seed, accuracy=0.5) for seed in (0, 1)]
    runs += [make_run(tmp_path, "at", seed, accuracy=0.5 + seed) for seed in (1, 2)]
    row = compare(index(runs)).set_index("method").loc["at"]
    assert row["versus_ce_pairs"] == 1
    assert row["versus_ce"] == pytest.approx(1.0)
    assert math.isnan(row["versus_ce_low"])


def test_the_order_of_runs_does_not_matter(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {"ce": [0.5, 0.6], "kd": [0.7, 0.9], "at": [0.6, 0.7]})
    pd.testing.assert_frame_equal(compare(index(runs)), compare(index(runs[::-1])))


def test_configurations_of_one_method_stay_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "kd", seed, accuracy=0.5, digest="a") for seed in (0, 1)]
    runs += [make_run(tmp_path, "kd", 0, accuracy=0.9, digest="b")]
    runs += [make_run(tmp_path, "at", 0, accuracy=0.6)]
    table = compare(index(runs))
    assert list(table["method"]) == ["kd · b", "at", "kd · a"]
    assert list(table["num_seeds"]) == [1, 1, 2]
    assert table["versus_kd"].isna().all()  # which kd would be meant?


def test_experiments_have_their_own_baselines(tmp_path: Path) -> None:
    accuracies = {("x", "ce"): 0.5, ("x", "at"): 0.6, ("y", "ce"): 0.7, ("y", "at"): 0.9}
    runs = [
        make_run(tmp_path, method, 0, accuracy=accuracy, experiment=experiment)
        for (experiment, method), accuracy in accuracies.items()
    ]
    table = compare(index(runs)).set_index("method")
    assert table.loc["at · x"]["versus_ce"] == pytest.approx(0.1)
    assert table.loc["at · y"]["versus_ce"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("by", "values"),
    [
        ("digest", ["d4", "d1"]),
        ("seed", ["0"]),
        ("method.temperature", ["4", "1"]),
        ("method.levels", ["1, 0.5", "1, 0.25"]),
        ("method.levels[1]", ["0.5", "0.25"]),
        ("method.levels.1", ["0.5", "0.25"]),
    ],
)
def test_rows_can_go_by_any_setting(by: str, values: list[str], tmp_path: Path) -> None:
    for temperature, level in ((1.0, 0.25), (4.0, 0.5)):
        settings = {"temperature": temperature, "levels": [1.0, level]}
        digest, accuracy = f"d{temperature:.0f}", 0.5 + temperature / 100
        make_run(tmp_path, "kd", 0, accuracy=accuracy, digest=digest, settings=settings)
    labels = list(compare(index(find_runs(tmp_path)), by=by)[by])
    assert [label.split(" · ")[0] for label in labels] == (
        values if len(values) > 1 else values * 2
    )
    assert len(set(labels)) == 2  # two configurations are never averaged


def test_a_run_that_lacks_a_setting_has_a_row_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path, "kd", 0, accuracy=0.6, settings={"temperature": 4})
    make_run(tmp_path, "ce", 0, accuracy=0.5)
    table = compare(index(find_runs(tmp_path)), by="method.temperature")
    assert list(table["method.temperature"]) == ["4", "–"]


@pytest.mark.parametrize(
    ("by", "says"),
    [
        ("metod", "--by: no column 'metod'; did you mean 'method'"),
        ("temperature", "--by: no column 'temperature'; did you mean 'method.temperature'"),
        ("method.temprature", "no column 'method.temprature'; did you mean 'method.temperature'"),
        ("zzz", "--by: no column 'zzz'; columns: experiment, method, digest, seed, and every"),
    ],
)
def test_an_unknown_column_is_named_with_what_may_be_meant(
    by: str, says: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "kd", 0, accuracy=0.6, settings={"temperature": 4})
    with pytest.raises(ConfigError, match=re.escape(says)):
        compare(index([run]), by=by)


def test_labels_follow_the_runs(tmp_path: Path) -> None:
    runs = finished_runs(index(make_runs(tmp_path, {"ce": [0.1], "kd": [0.2]})))
    assert label_runs(runs[::-1]) == ["kd", "ce"]


def printed(table: TextTable, *, width: int) -> dict[str, str]:
    """The lines of a table on a terminal of so many columns, by their first word."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table.as_rich(title="toy", width=width))
    return {line.split()[0]: line for line in capture.get().splitlines() if line.strip()}


def test_the_tables_show_means_and_dashes_for_one_seed(tmp_path: Path) -> None:
    table = comparison_table(index(make_runs(tmp_path, {"ce": [0.5, 0.6], "kd": [0.7]})))
    lines = printed(table, width=80)
    assert "70.00 ± –" in lines["kd"]
    assert "+20.00 ± –" in lines["kd"]
    assert "55.00 ± 7.07" in lines["ce"]
    assert "90.00" in lines["teacher"]


@pytest.mark.parametrize("width", range(60, 130, 10))
def test_columns_give_way_on_a_narrow_terminal_and_no_line_is_too_long(
    width: int, tmp_path: Path
) -> None:
    table = comparison_table(index(make_runs(tmp_path, {"ce": [0.5, 0.6], "kd": [0.7, 0.8]})))
    lines = printed(table, width=width)
    shown = [name for name in table.yielding if name in lines["student"]]
    assert shown == [*table.yielding[3 - len(shown) :]]
    assert max(map(len, lines.values())) <= width
    assert len([line for line in lines if line in ("ce", "kd")]) == 2  # none is folded
    told = " ".join(" ".join(lines.values()).split())
    assert ("no room here for" in told) == (len(shown) < 3)


def test_a_wide_terminal_and_markdown_show_every_column(tmp_path: Path) -> None:
    table = comparison_table(index(make_runs(tmp_path, {"ce": [0.5, 0.6], "kd": [0.7]})))
    lines = printed(table, width=130)
    for heading in ("at best validation %", "parameters", "store"):
        assert heading in lines["student"]
    assert "7 MB" in lines["kd"]
    assert "1.73M" in lines["teacher"]
    rows = [line.split(" | ") for line in table.as_markdown().splitlines() if line[:1] == "|"]
    assert {len(row) for row in rows} == {9}  # as many cells in each row, the rule too
    assert rows[2][:2] == ["| kd", "70.00 ± –"]
    assert table.as_markdown().endswith("half a 95 % interval*\n")


def test_markdown_keeps_its_columns_whatever_a_name_holds() -> None:
    text = TextTable(["a", "b"], [[["x|y*", "1"]]], "c").as_markdown()
    assert "| x\\|y\\* | 1 |" in text


def test_nothing_finished_is_an_error_that_says_so(tmp_path: Path) -> None:
    unfinished = [make_run(tmp_path, "kd", 0)]
    with pytest.raises(ConfigError, match="none of the runs is finished"):
        comparison_table(index(unfinished))


def test_teachers_are_listed_once(tmp_path: Path) -> None:
    table = index(make_runs(tmp_path, {"ce": [0.5, 0.6], "kd": [0.7]}))
    assert teacher_accuracies(table) == [("big", 0.9, 1_730_000)]


def test_trials_are_ranked_by_validation_accuracy_and_the_failed_come_last(tmp_path: Path) -> None:
    make_trial(tmp_path, 0, {"method.temperature": 1.0}, score=0.7)
    make_trial(tmp_path, 1, {"method.temperature": 2.0}, score=None)
    make_trial(tmp_path, 2, {"method.temperature": 4.0}, score=0.8)
    make_trial(tmp_path, 3, {"method.temperature": 8.0}, score=0.9, ended="stopped")
    table = compare_trials(index(find_runs(tmp_path)))
    assert list(table["trial"]) == ["002", "000", "003", "001"]
    assert list(table["state"]) == ["finished", "finished", "stopped", "failed"]
    assert list(table["method.temperature"]) == [4.0, 1.0, 8.0, 2.0]
    assert math.isnan(table["validation_accuracy_mean"][3])
    assert table["reason"][3] == "loss is not finite"


def test_trials_of_several_sweeps_stay_apart(tmp_path: Path) -> None:
    for space in ("kd", "mine"):
        make_trial(tmp_path, 0, {"method.temperature": 1.0}, score=0.7, space=space)
    make_trial(tmp_path, 0, {"method.temperature": 1.0}, score=0.6, experiment="other")
    table = compare_trials(index(find_runs(tmp_path)))
    assert set(table["trial"]) == {
        "000 · tune-kd · toy",
        "000 · tune-kd · other",
        "000 · tune-mine",
    }


def test_trials_can_be_grouped_by_what_was_tried(tmp_path: Path) -> None:
    for number, (temperature, weight) in enumerate([(1.0, 0.5), (1.0, 2.0), (4.0, 0.5)]):
        values = {"method.temperature": temperature, "method.kd_weight": weight}
        make_trial(tmp_path, number, values, score=0.6 + number / 10)
    table = compare_trials(index(find_runs(tmp_path)), by="method.temperature")
    assert list(table["method.temperature"]) == ["4", "1"]
    assert list(table["num_trials"]) == [1, 2]
    assert table["validation_accuracy_mean"][1] == pytest.approx(0.65)
    assert table["method.kd_weight"][0] == 0.5
    assert pd.isna(table["method.kd_weight"][1])  # both weights are in this row
    cells = trials_table(index(find_runs(tmp_path)), by="method.temperature").groups[0]
    assert [row[0] for row in cells] == ["4", "1"]


def test_trials_of_several_types_of_value_make_one_parquet_column(tmp_path: Path) -> None:
    for number, value in enumerate([1, "auto", 2.5]):
        make_trial(tmp_path, number, {"method.level": value}, score=0.5)
    table = compare_trials(index(find_runs(tmp_path)))
    table.to_parquet(tmp_path / "table.parquet")
    assert set(pd.read_parquet(tmp_path / "table.parquet")["method.level"]) == {"1", "auto", "2.5"}
