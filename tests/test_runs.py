"""Run folders: what they hold, and how they are found."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.runs import RunFolder, find_runs, write_atomically
from orchestrator.trial_files import trial_run
from tests.run_folders import TEACHERS, make_run


def test_a_run_folder_holds_what_was_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, "my-method", 3, accuracy=0.7)
    assert run.path == tmp_path / "toy" / "my-method-d1" / "seed-3"
    assert run.identity == {"experiment": "toy", "method": "my-method", "digest": "d1", "seed": 3}
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["method"] == {"name": "my-method"}
    assert config["seeds"] == [3]
    assert run.checkpoint("best") == run.path / "checkpoints" / "best.pt"
    assert run.checkpoint("best").parent.is_dir()


def test_a_result_finishes_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "kd", 0)
    assert not run.finished
    assert run.result() is None
    make_run(tmp_path, "kd", 0, accuracy=0.7, validation_accuracy=math.nan)
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


def test_a_curve_has_every_epoch_and_nan_where_nothing_was_reported(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "seed-0")
    assert run.curve("a") == []
    run.append_metrics({"epoch": 0, "b": 1.0})
    assert math.isnan(run.curve("a")[0][1])
    run.append_metrics({"epoch": 1, "a": 2.0})
    first, second = run.curve("a")
    assert second == (1, 2.0)
    assert math.isnan(first[1])


def test_runs_are_found_from_any_folder_and_nothing_else(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "kd", seed) for seed in (0, 1)]
    (tmp_path / "toy" / "notes" / "seed-1").mkdir(parents=True)
    (tmp_path / "toy" / "notes" / "seed-1" / "config.yaml").write_text("a: 1")  # no METHOD-DIGEST
    make_run(runs[0].path / "checkpoints", "kd", 9)  # what lies in a run is the run's own
    for folder in (tmp_path, tmp_path / "toy", tmp_path / "toy" / "kd-d1"):
        assert find_runs(folder) == runs
    assert find_runs(runs[1].path) == [runs[1]]


def test_a_trial_is_named_by_its_sweep_and_a_run_by_none(tmp_path: Path) -> None:
    trial = trial_run(tmp_path / "toy" / "tune-kd", method="kd", number=7, seed=0)
    assert trial.sweep == "tune-kd"
    assert trial.experiment_folder == tmp_path / "toy"
    assert trial.identity == {"experiment": "toy", "method": "kd", "digest": "007", "seed": 0}
    run = make_run(tmp_path, "kd", 0)
    assert run.sweep == ""
    assert run.experiment_folder == tmp_path / "toy"


def test_a_missing_root_is_named_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match=r"no folder '.*resuls'; did you mean '.*results'"):
        find_runs(tmp_path / "resuls")


def test_importing_what_shows_runs_loads_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator import comparison, display, plots, reporting, tracking;"
        "print({'torch', 'ray', 'pandas', 'pyarrow', 'matplotlib'} & sys.modules.keys())"
    )
    root = Path(__file__).resolve().parents[1]
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert answer.stdout.strip() == "set()"
