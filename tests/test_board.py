"""``tutelage board``: TensorBoard on real runs, asked by programs and looked at in a browser."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.run import main
from orchestrator.runs import RunFolder, find_runs
from tests.board_helpers import ask, board, train_runs, wait_for

NAMES = {"ebkd temperature=4", "ebkd temperature=2", "ce"}
# Where there is no data server, TensorBoard reads events in its own process.
LOADERS = {"fast": {}, "slow": {"TENSORBOARD_DATA_SERVER_BINARY": "/nonexistent"}}
STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


@pytest.fixture(scope="module")
def runs(fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_runs(fashion, tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module", params=LOADERS)
def served(request: pytest.FixtureRequest, runs: Path) -> Iterator[tuple[str, Path]]:
    """An address for each loader, and a copy of the runs that it shows."""
    copy = runs.parents[1] / request.param / runs.name
    shutil.copytree(runs, copy)
    with board(str(copy), "--port", "0", variables=LOADERS[request.param]) as (url, _):
        wait_for(lambda: shown(url) == NAMES)
        yield url, copy


def shown(url: str) -> set[str]:
    """The names of runs, but for the one that tells of all."""
    return {name for name in ask(url, "runs") if not name.startswith("~comparison")}


def rows(url: str) -> dict[str, Any]:
    """The rows of the HParams table by their names."""
    asked = {"allowedStatuses": STATUSES, "sliceSize": 100}
    answer = ask(url, "plugin/hparams/session_groups", asked)
    return {row["name"]: row for row in answer.get("sessionGroups", [])}


def test_the_table_has_a_row_for_each_run_with_what_differs_and_its_results(
    served: tuple[str, Path],
) -> None:
    url, folder = served
    wait_for(lambda: len(rows(url)) == len(NAMES))
    experiment = ask(url, "plugin/hparams/experiment", {})
    assert {c["name"] for c in experiment["hparamInfos"]} == {
        "method.name",
        "method.temperature",
        "seeds.0",
    }
    results = {
        name: run.result() for name, run in zip(sorted(NAMES), in_order(folder), strict=True)
    }
    for name, row in rows(url).items():
        assert row["hparams"]["method.name"] == name.split()[0]
        assert "output.root" not in row["hparams"]  # which the run's own events tell, too
        values = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
        result = results[name]
        assert result is not None
        for field in ("test_accuracy", "validation_accuracy", "seconds", "parameters"):
            assert values[f"result/{field}"] == pytest.approx(result[field], rel=1e-6)


def in_order(folder: Path) -> list[RunFolder]:
    """The runs in the order of their names."""

    def name(run: RunFolder) -> str:
        method = yaml.safe_load((run.path / "config.yaml").read_text())["method"]
        return f"{method['name']} {method.get('temperature')}"

    return sorted(find_runs(folder), key=name)


def test_charts_put_all_runs_side_by_side(served: tuple[str, Path]) -> None:
    url, _ = served
    layout = ask(url, "plugin/custom_scalars/layout")
    charts = {category["title"]: category["chart"] for category in layout["category"]}
    assert {"Accuracy", "Losses, mean of each epoch", "Teachers' weights"} <= set(charts)
    weights = {chart["title"]: chart["multiline"]["tag"] for chart in charts["Teachers' weights"]}
    assert set(weights) == {"teacher_weight/a", "teacher_weight/b", "teacher_weight_entropy"}
    for run, points in (("ebkd temperature=4", 2), ("ce", 0)):
        (tag,) = weights["teacher_weight/a"]
        answer = ask(url, "plugin/custom_scalars/scalars", run=run, tag=tag)
        assert len(answer["tag_to_events"].get("teacher_weight/a", [])) == points


def test_what_begins_meanwhile_appears_and_renames_the_others(served: tuple[str, Path]) -> None:
    url, folder = served
    more = RunFolder(in_order(folder)[0].path.parent / "seed-7")  # of ce
    shutil.copytree(more.path.parent / "seed-0", more.path)
    config = yaml.safe_load((more.path / "config.yaml").read_text())
    more.create(config | {"seeds": [7]})
    names = {f"{name} seed=0" for name in NAMES} | {"ce seed=7"}
    wait_for(lambda: shown(url) == names)
    wait_for(lambda: set(rows(url)) == names)
    assert rows(url)["ce seed=7"]["hparams"]["seeds.0"] == 7
    shutil.rmtree(more.path)
    wait_for(lambda: shown(url) == NAMES)
    wait_for(lambda: set(rows(url)) == NAMES)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(how: signal.Signals, runs: Path, tmp_path: Path) -> None:
    with board(str(runs), "--port", "0", variables={"TMPDIR": str(tmp_path)}) as (url, process):
        assert url.startswith("http://localhost:")
        assert list(tmp_path.glob("tutelage-board-*"))
        process.send_signal(how)
        assert process.wait(30) == 0
    assert not list(tmp_path.glob("tutelage-board-*"))
    with pytest.raises(OSError, match="refused"):
        ask(url, "runs")


def test_an_experiment_opens_its_own_folder_in_the_browser_asked_for(
    runs: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load((find_runs(runs)[0].path / "config.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "browser").write_text(f'#!/bin/sh\necho "$1" > {tmp_path / "opened"}\n')
    (tmp_path / "browser").chmod(0o755)
    browser = {"BROWSER": f"{tmp_path / 'browser'} %s"}
    with board("mine.yaml", "--port", "0", "--open", cwd=tmp_path, variables=browser) as (url, _):
        wait_for((tmp_path / "opened").exists)
        wait_for(lambda: shown(url) == NAMES)
    assert (tmp_path / "opened").read_text().strip() == url


def test_an_address_that_cannot_be_had_is_a_mistake(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = str(taken.getsockname()[1])
        for option, says in (
            (("--port", port), f"--port: {port} is taken; give another, or leave it out to have"),
            (("--host", "nowhere.invalid"), "--host: no host 'nowhere.invalid' (Name or"),
            (("--host", "192.0.2.1"), "--host: cannot listen at 192.0.2.1 (Cannot assign"),
            (("--port", "70000"), "--port: 70000 is no port; give one from 1024 to 65535"),
        ):
            assert main(["board", str(runs), *option]) == 2
            assert capsys.readouterr().err.startswith(f"error: {says}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "board: no folder 'runs'; train something first, as with: tutelage train demo"),
        (("demmo",), "board: 'demmo' is no folder, no YAML file and no shipped experiment; give a"),
        (("demo",), "board: no folder 'runs/demo'; train it first: tutelage train demo"),
        (("empty",), "board: no run lies below 'empty'; give the output.root of an experiment"),
    ],
)
def test_mistakes_end_with_status_2_and_tell_the_fix(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["board", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")
