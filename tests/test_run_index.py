"""The index of runs: what it says, what it reads again, and what it survives."""

from __future__ import annotations

import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from distill.loading import ConfigError
from orchestrator.run_index import COLUMNS, INDEX, index
from orchestrator.runs import find_runs
from orchestrator.trial_files import Note
from tests.run_folders import CURVE, finish, make_run, make_runs, make_trial

# Thirty lines that stand for 2**30 values.
BOMB = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(30))


def on_file(root: Path) -> dict[str, dict]:
    rows = pd.read_parquet(root / INDEX).to_dict("records")
    return {row["path"]: row for row in rows}


def doctor(root: Path, accuracy: float) -> None:
    """Change what the index says, so that it shows whether a run is read again."""
    table = pq.read_table(root / INDEX)
    frame = table.to_pandas().assign(test_accuracy=accuracy)
    changed = table.from_pandas(frame, schema=table.schema, preserve_index=False)
    pq.write_table(changed, root / INDEX)


def test_a_row_says_what_the_run_is_and_what_it_reached(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, "kd", 0, accuracy=0.7, settings={"temperature": 4.0}),
        make_run(tmp_path, "kd", 1),
    ]
    table = index(runs)
    assert list(table.columns) == list(COLUMNS)
    assert list(table["path"]) == [str(run.path) for run in runs]
    assert list(table["finished"]) == [True, False]
    assert list(table["state"]) == ["finished", "unfinished"]
    assert list(table["seed"]) == [0, 1]
    assert list(table["epochs"]) == [2, 2]
    assert list(table["last_validation_accuracy"]) == [CURVE[-1]] * 2
    assert table["test_accuracy"][0] == 0.7
    assert math.isnan(table["test_accuracy"][1])
    assert json.loads(table["config"][0])["method.temperature"] == 4.0


def test_a_trial_brings_its_values_and_its_end(tmp_path: Path) -> None:
    make_trial(tmp_path, 0, {"method.temperature": 2.0}, score=0.7)
    make_trial(tmp_path, 1, {"method.temperature": 4.0}, score=None)
    table = index(find_runs(tmp_path))
    assert list(table["sweep"]) == ["tune-kd"] * 2
    assert list(table["experiment"]) == ["toy"] * 2
    assert list(table["state"]) == ["finished", "failed"]
    assert json.loads(table["tried"][1]) == {"method.temperature": 4.0}
    assert table["reason"][1] == "loss is not finite"


def test_the_file_has_paths_below_the_root_and_follows_it(tmp_path: Path) -> None:
    index(make_runs(tmp_path / "here", {"ce": [0.5], "kd": [0.7]}))
    assert list(on_file(tmp_path / "here")) == ["toy/ce-d1/seed-0", "toy/kd-d1/seed-0"]
    shutil.copytree(tmp_path / "here", tmp_path / "there")  # times of files are kept
    doctor(tmp_path / "there", 0.25)
    table = index(find_runs(tmp_path / "there"))
    assert list(table["test_accuracy"]) == [0.25, 0.25]
    assert all(path.startswith(str(tmp_path / "there")) for path in table["path"])


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    runs = [*make_runs(tmp_path, {"ce": [0.5], "kd": [0.7]}), make_run(tmp_path, "at", 0)]
    index(runs)
    doctor(tmp_path, 0.25)
    assert list(index(runs)["test_accuracy"][:2]) == [0.25, 0.25]
    size = (runs[1].path / "result.json").stat().st_size
    finish(runs[1], test_accuracy=0.8, test_accuracy_best=0.71)
    assert (runs[1].path / "result.json").stat().st_size == size  # its time tells
    finish(runs[2], test_accuracy=0.65)
    assert list(index(runs)["test_accuracy"]) == [0.25, 0.8, 0.65]
    assert on_file(tmp_path)["toy/at-d1/seed-0"]["test_accuracy"] == 0.65


def test_epochs_and_the_end_of_a_trial_are_noticed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "kd", 0)
    trial = make_trial(tmp_path, 0, {"method.temperature": 2.0}, score=0.7, ended="stopped")
    index([run, trial])
    run.append_metrics({"epoch": 2, "accuracy/validation": 0.8})
    Note(0, {"method.temperature": 2.0}, ended="failed", reason="lost").write(trial)
    table = index([run, trial])
    assert list(table["epochs"]) == [3, 2]
    assert list(table["state"]) == ["unfinished", "failed"]


def test_a_run_that_vanished_leaves_the_index(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {"ce": [0.5], "kd": [0.7]})
    index(runs)
    shutil.rmtree(runs[0].path)
    index(runs[1:])
    assert list(on_file(tmp_path)) == ["toy/kd-d1/seed-0"]


def test_runs_that_were_not_asked_for_stay(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {"ce": [0.5], "kd": [0.7]})
    index(runs[:1])
    assert list(index(runs[1:])["method"]) == ["kd"]
    assert len(on_file(tmp_path)) == 2


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "other", "short"])
def test_a_damaged_index_or_one_of_another_version_is_made_anew(harm: str, tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {"ce": [0.5], "kd": [0.7]})
    index(runs)
    file = tmp_path / INDEX
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[40] ^= 0xFF
        file.write_bytes(content)
    elif harm == "empty":
        file.write_bytes(b"")
    else:
        table = pq.read_table(file)
        changed = (
            table.drop_columns(["path"]) if harm == "short" else table.replace_schema_metadata({})
        )
        pq.write_table(changed, file)
    assert list(index(runs)["test_accuracy"]) == [0.5, 0.7]
    assert len(on_file(tmp_path)) == 2


def test_those_who_index_at_once_lose_no_row(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {"ce": [0.5] * 8, "kd": [0.7] * 8})
    with ThreadPoolExecutor(8) as executor:  # the lock is on the file: threads are as good
        tables = list(executor.map(lambda run: index([run]), runs))
    assert [len(table) for table in tables] == [1] * 16
    assert len(on_file(tmp_path)) == 16


def test_each_run_counts_once_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs", "kd", 0, accuracy=0.7)
    os.symlink(tmp_path / "runs", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    names = [run, *find_runs(Path("runs")), *find_runs(Path("link/toy"))]
    assert len(index(names)) == 1


def test_what_cannot_be_written_is_compared_all_the_same(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, {"ce": [0.5], "kd": [0.7]})
    (tmp_path / INDEX).mkdir()  # root may write anywhere, but not a file over a folder
    assert list(index(runs)["test_accuracy"]) == [0.5, 0.7]
    assert not list(tmp_path.glob(".*.draft"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", "{"),
        ("result.json", "[1]"),
        ("config.yaml", "a: [1"),
        ("config.yaml", ""),
        ("config.yaml", "[" * 100_000),
        ("config.yaml", BOMB),
        ("result.json", '{"a":' * 100_000),
        ("metrics.parquet", "PAR1"),
        ("result.json", '{"test_accuracy": "high"}'),
        ("trial.json", '{"number": 0, "values": 5}'),
        ("trial.json", '{"number": "first", "values": {}}'),
    ],
)
def test_a_damaged_run_is_named(file: str, content: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "kd", 0, accuracy=0.7)
    (run.path / file).write_text(content)
    with pytest.raises(ConfigError, match=rf"runs: '{run.path}' cannot be read: .*; copy it once"):
        index([run])
