"""Run folders, their index, and the comparison over seeds."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from orchestrator.comparison import (
    compare,
    comparison_table,
    finished_runs,
    label_runs,
    t_quantile,
    teacher_accuracies,
)
from orchestrator.plots import plot_comparison, spread
from orchestrator.runs import RunFolder, find_runs, index, write_atomically

TEACHERS = {"big": {"accuracy": 0.9, "parameters": 1_730_000}}


def make_run(
    root: Path,
    method: str,
    seed: int,
    *,
    accuracy: float | None = None,
    digest: str = "d1",
    experiment: str = "toy",
) -> RunFolder:
    """A run with two epochs; finished if it has an ``accuracy``."""
    run = RunFolder.at(root, experiment=experiment, method=method, digest=digest, seed=seed)
    run.create({"method": {"name": method}, "seed": seed})
    for epoch in range(2):
        run.append_metrics({"epoch": epoch, "accuracy/validation": 0.5 + 0.1 * epoch})
    if accuracy is not None:
        identity = {"experiment": experiment, "method": method, "digest": digest, "seed": seed}
        accuracies = {"test_accuracy": accuracy, "test_accuracy_best": accuracy + 0.01}
        counts = {"epochs": 2, "best_epoch": 1, "parameters": 1000, "workers": 1}
        times = {"seconds": 10.0, "seconds_waiting": 1.0, "signal_bytes": 7}
        rest = {"validation_accuracy": math.nan, "teachers": TEACHERS}
        run.write_result(identity | accuracies | counts | times | rest)
    return run


def make_runs(root: Path, accuracies: dict[str, list[float]]) -> list[RunFolder]:
    return [
        make_run(root, method, seed, accuracy=value)
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def test_a_run_folder_holds_what_was_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, "my-method", 3, accuracy=0.7)
    assert run.path == tmp_path / "toy" / "my-method-d1" / "seed-3"
    assert run.identity == {"experiment": "toy", "method": "my-method", "digest": "d1", "seed": 3}
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config == {"method": {"name": "my-method"}, "seed": 3}
    assert run.checkpoint("best") == run.path / "checkpoints" / "best.pt"
    assert run.checkpoint("best").parent.is_dir()


def test_a_result_finishes_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "kd", 0)
    assert not run.finished
    assert run.result() is None
    make_run(tmp_path, "kd", 0, accuracy=0.7)
    result = run.result()
    assert run.finished
    assert result is not None
    assert result["test_accuracy"] == 0.7
    assert result["validation_accuracy"] is None  # NaN is no JSON
    assert result["teachers"] == TEACHERS


def test_an_incomplete_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="seconds_waiting"):
        make_run(tmp_path, "kd", 0).write_result({"method": "kd"})


def test_a_repeated_epoch_replaces_its_row_and_drops_later_ones(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "seed-0")
    for epoch in range(4):
        run.append_metrics({"epoch": epoch, "loss/total": 1.0})
    run.append_metrics({"epoch": 2, "loss/total": 0.5})
    metrics = run.metrics()
    assert list(metrics["epoch"]) == [0, 1, 2]
    assert list(metrics["loss/total"]) == [1.0, 1.0, 0.5]


def test_metrics_may_gain_columns(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "seed-0")
    run.append_metrics({"epoch": 0, "a": 1.0})
    run.append_metrics({"epoch": 1, "b": 2.0})
    metrics = run.metrics()
    assert list(metrics.columns) == ["epoch", "a", "b"]
    assert math.isnan(metrics["b"][0])
    assert math.isnan(metrics["a"][1])


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda draft: draft.write_text("old"))

    def fail(draft: Path) -> None:
        draft.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_environment_names_versions_and_command(tmp_path: Path) -> None:
    run = make_run(tmp_path, "kd", 0)
    run.write_environment()
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["versions"]["python"].startswith("3.")
    assert environment["versions"]["torch"]
    assert environment["argv"] == sys.argv
    assert environment.keys() >= {"platform", "num_cpus", "hostname", "commit"}


def test_finding_and_indexing_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "kd", 0, accuracy=0.7), make_run(tmp_path, "kd", 1)]
    (tmp_path / "toy" / "notes").mkdir()
    assert find_runs(tmp_path) == find_runs(tmp_path / "toy") == runs
    table = index(runs)
    assert list(table["finished"]) == [True, False]
    assert list(table["seed"]) == [0, 1]
    assert list(table["epochs"]) == [2, 2]
    assert table["test_accuracy"][0] == 0.7
    assert math.isnan(table["test_accuracy"][1])


def test_a_missing_root_is_named_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match=r"no folder '.*resuls'; did you mean '.*results'"):
        find_runs(tmp_path / "resuls")


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


def test_by_names_the_rows_and_is_checked(tmp_path: Path) -> None:
    table = index(make_runs(tmp_path, {"kd": [0.7]}))
    assert list(compare(table, by="digest")["digest"]) == ["d1"]
    with pytest.raises(ValueError, match="no column 'metod'; did you mean 'method'"):
        compare(table, by="metod")


def test_labels_follow_the_runs(tmp_path: Path) -> None:
    runs = finished_runs(index(make_runs(tmp_path, {"ce": [0.1], "kd": [0.2]})))
    assert label_runs(runs[::-1]) == ["kd", "ce"]


def test_the_tables_show_means_and_dashes_for_one_seed(tmp_path: Path) -> None:
    table = index(make_runs(tmp_path, {"ce": [0.5, 0.6], "kd": [0.7]}))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(comparison_table(table, title="toy"))
    lines = {line.split()[0]: line for line in capture.get().splitlines() if line.strip()}
    assert "70.00 ± –" in lines["kd"]
    assert "+20.00 ± –" in lines["kd"]
    assert "55.00 ± 7.07" in lines["ce"]
    assert "90.00" in lines["teacher"]


def test_nothing_finished_is_an_error_that_says_so(tmp_path: Path) -> None:
    unfinished = [make_run(tmp_path, "kd", 0)]
    with pytest.raises(ValueError, match="none of the runs is finished"):
        comparison_table(index(unfinished))
    with pytest.raises(ValueError, match="none of the runs is finished"):
        plot_comparison(unfinished, tmp_path / "plot.png", title="")


def test_teachers_are_listed_once(tmp_path: Path) -> None:
    table = index(make_runs(tmp_path, {"ce": [0.5, 0.6], "kd": [0.7]}))
    assert teacher_accuracies(table) == [("big", 0.9, 1_730_000)]


def test_a_plot_is_a_png_of_its_own_size(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {f"m{k}": [0.5 + k / 100, 0.6] for k in range(15)})
    plot_comparison(runs, tmp_path / "plot.png", title="toy")
    head = (tmp_path / "plot.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:])[0] == 13 * 150


def test_spread_moves_labels_apart_and_no_further() -> None:
    assert spread([0.9, 0.1], gap=0.1, low=0, high=1) == [0.9, 0.1]
    assert spread([0.5, 0.5], gap=0.1, low=0, high=1) == pytest.approx([0.45, 0.55])
    crowded = spread([1.0, 1.0, 0.99], gap=0.1, low=0, high=1)
    assert crowded == pytest.approx([0.9, 1.0, 0.8])


def test_importing_what_shows_runs_loads_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator import comparison, display, plots, runs, tracking;"
        "print({'torch', 'ray', 'pandas', 'pyarrow', 'matplotlib'} & sys.modules.keys())"
    )
    root = Path(__file__).resolve().parents[1]
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert answer.stdout.strip() == "set()"
