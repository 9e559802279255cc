"""``tutelage compare``: what its arguments mean, what it prints, and what it leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from distill import run
from tests.run_folders import make_run, make_runs, make_trial, weigh


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def compared(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0
) -> tuple[str, str]:
    """What ``compare`` prints and what it says of errors."""
    assert run.main(["compare", *map(str, arguments)]) == status
    said = capsys.readouterr()
    return said.out, said.err


def table_in(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "comparison.parquet")


def rows_of(text: str) -> list[str]:
    """The first words of the table's rows."""
    lines = [line.split() for line in text.splitlines() if " ± " in line]
    return [words[0] for words in lines if words[0] != "±"]


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["runs"], ["runs/toy"], ["."], ["runs/toy/ce-d1", "runs/toy/kd-d1"]),
        *(["runs/toy/ce-d1/seed-0", "runs/toy/kd-d1/seed-0"], ["toy.yaml"]),
        ["runs", "runs/toy", "toy.yaml"],  # the same, three times
    ],
)
def test_runs_are_named_by_any_folder_or_by_their_experiment(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(Path("runs"), {"ce": [0.5], "kd": [0.7]})
    Path("toy.yaml").write_text("extends: demo\nname: toy\n")
    out, _ = compared(capsys, *arguments)
    assert rows_of(out) == ["kd", "ce"]
    assert list(table_in(Path("runs/toy/comparison"))["num_seeds"]) == [1, 1]


def test_a_shipped_name_stands_for_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "kd", 0, accuracy=0.7, experiment="demo")
    make_run(Path("runs"), "ce", 0, accuracy=0.5, experiment="other")
    assert rows_of(compared(capsys, "demo")[0]) == ["kd"]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (
            "rnus",
            "error: compare: 'rnus' is no folder, experiment or YAML file; did you mean 'runs'",
        ),
        ("toyy", "did you mean 'runs/toy'"),
        ("runs/toyy", "did you mean 'runs/toy'"),
        ("dem", "did you mean 'demo'"),
        (
            "zzz",
            "error: compare: 'zzz' is no folder, experiment or YAML file; give a folder of runs,",
        ),
        (
            "demo",
            "error: compare: 'demo' has no runs in 'runs/demo' yet; train it first, with `tut",
        ),
        ("empty", "error: compare: no run lies below 'empty'; train something first"),
    ],
)
def test_a_name_that_means_nothing_is_a_mistake(
    argument: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(Path("runs"), {"kd": [0.7]})
    Path("empty").mkdir()
    out, err = compared(capsys, argument, status=2)
    assert says in err
    assert out == ""


def test_an_unknown_column_is_a_mistake_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(Path("runs"), "kd", 0, accuracy=0.7, settings={"temperature": 4.0})
    _, err = compared(capsys, "runs", "--by", "method.temprature", status=2)
    assert "did you mean 'method.temperature'?" in err
    assert not Path("runs/toy/comparison").exists()


def test_a_setting_names_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    for t in (1.0, 4.0):
        make_run(
            Path("runs"), "kd", 0, accuracy=0.6 + t / 100, digest=f"d{t}", settings={"temp": t}
        )
    assert rows_of(compared(capsys, "--by", "method.temp")[0]) == ["4", "1"]


def test_everything_is_written_where_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    runs = make_runs(Path("runs"), {"ce": [0.5, 0.6], "camkd": [0.7, 0.8]})
    for one in runs[2:]:
        weigh(one, {"a": [0.2, 0.3], "b": [0.8, 0.7]}, kind="teacher_weight")
    make_run(Path("runs"), "kd", 0, accuracy=0.7, seconds=20.0)
    out, _ = compared(capsys, "runs", "--output", "o")
    tables = {f"comparison.{kind}" for kind in ("csv", "parquet", "md")}
    pictures = {"comparison.png", "cost.png", "teacher_weights.png"}
    assert set(os.listdir("o")) == tables | pictures
    for name in ("o/comparison.md", *(f"o/{picture}" for picture in pictures)):
        assert name in out
    assert "| student by | test % |" in Path("o/comparison.md").read_text()
    pd.testing.assert_frame_equal(pd.read_csv("o/comparison.csv"), table_in(Path("o")))


def test_a_picture_with_nothing_to_show_is_not_left_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_runs(Path("runs"), {"ce": [0.5], "kd": [0.7]})
    Path("o").mkdir()
    Path("o/cost.png").write_text("of an earlier comparison")
    out, _ = compared(capsys, "runs", "--output", "o")
    assert "no cost.png: all configurations cost the same" in out
    assert "no teacher_weights.png: no run's method weighs teachers" in out
    assert not Path("o/cost.png").exists()


def test_several_experiments_are_compared_in_their_root(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(Path("runs"), "kd", 0, accuracy=0.7, experiment="x")
    make_run(Path("runs"), "kd", 0, accuracy=0.6, experiment="y")
    out, _ = compared(capsys, "runs/x", "runs/y")
    assert out.count("kd · ") == 2
    assert len(table_in(Path("runs/comparison"))) == 2


def test_a_copy_from_another_machine_counts_once_and_brings_what_is_new(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(Path("runs"), "kd", 0, accuracy=0.7)
    make_run(Path("runs"), "kd", 1)  # finished on the other machine alone
    shutil.copytree("runs", "copy/runs")
    make_run(Path("copy/runs"), "kd", 1, accuracy=0.8)
    make_run(Path("copy/runs"), "kd", 2, accuracy=0.9)
    out, _ = compared(capsys, "runs", "copy", "--output", "o")
    assert list(table_in(Path("o"))["num_seeds"]) == [3]
    assert table_in(Path("o"))["test_accuracy_mean"][0] == pytest.approx(0.8)
    assert "conflict" not in out
    assert "left out" not in out


def test_copies_that_contradict_each_other_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "kd", 0, accuracy=0.7)
    make_run(Path("copy"), "kd", 0, accuracy=0.71)
    out, _ = compared(capsys, "runs", "copy", "--output", "o")
    assert "are the same run with other results (test_accuracy 0.7 and 0.71" in out
    assert table_in(Path("o"))["test_accuracy_mean"][0] == 0.7  # the first counts


def test_what_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    make_runs(Path("runs"), {"ce": [0.5], "kd": [0.7]})
    make_run(Path("runs"), "kd", 7)
    for number in range(3):
        make_trial(Path("runs"), number, {"method.temperature": 1.0 + number}, score=0.9)
    out, _ = compared(capsys, "runs")
    assert rows_of(out) == ["kd", "ce"]
    assert "left out: 1 run not finished: runs/toy/kd-d1/seed-7 (after 2 epochs)" in out
    assert "left out: 3 trials of a sweep, never tested; `tutelage compare runs/toy/tune-kd`" in out


def test_runs_of_which_none_is_finished_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "kd", 0)
    _, err = compared(capsys, status=2)
    assert err == "error: compare: none of the runs is finished; let one end, then compare\n"


def test_a_sweep_is_compared_by_validation_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "kd", 0, accuracy=0.7)
    for number, score in enumerate([0.7, None, 0.8]):
        make_trial(Path("runs"), number, {"method.temperature": 1.0 + number}, score=score)
    out, _ = compared(capsys, "runs/toy/tune-kd")
    assert "trial 001 FAILED: loss is not finite" in out
    table = table_in(Path("runs/toy/tune-kd/comparison"))
    assert list(table["trial"]) == ["002", "000", "001"]
    assert list(table["method.temperature"]) == [3.0, 1.0, 2.0]
    assert Path("runs/toy/tune-kd/comparison/trials.png").stat().st_size > 10_000


def test_each_of_several_sweeps_has_its_picture(capsys: pytest.CaptureFixture[str]) -> None:
    for space in ("kd", "mine"):
        for number, score in enumerate((0.7, 0.8)):
            values = {"method.temperature": 1.0 + number}
            make_trial(Path("runs"), number, values, score=score, space=space)
    compared(capsys, "runs", "--output", "o")
    assert {file.name for file in Path("o").glob("*.png")} == {
        "trials-toy-tune-kd.png",
        "trials-toy-tune-mine.png",
    }
    assert len(table_in(Path("o"))) == 4


def test_a_folder_that_cannot_be_made_ends_it_with_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_runs(Path("runs"), {"kd": [0.7]})
    Path("file").write_text("")
    _, err = compared(capsys, "runs", "--output", "file/o", status=1)
    assert err.startswith("error: ")
