"""The main job, whole: what it does once, what it does not do again, and how it is stopped."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.config import Experiment
from distill.datasets import load_data
from distill.loading import ConfigError
from distill.run import main
from orchestrator.display import Display
from orchestrator.jobs import student_jobs
from orchestrator.pipeline import Outcome, run_experiment
from orchestrator.runs import RunFolder, find_runs
from tests.helpers import filed_weights, files_below, tiny, two_teachers

ROOT = Path(__file__).parents[1]
DONE = "nothing to record, nothing to train"


def run(experiment: Experiment) -> tuple[Outcome, str]:
    """The outcome, and all that was shown."""
    shown = io.StringIO()
    with Display(shown) as display:
        outcome = run_experiment(experiment, display)
    return outcome, shown.getvalue()


def stamps(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern)}


def write_yaml(experiment: Experiment, file: Path) -> Path:
    file.write_text(yaml.safe_dump(experiment.as_dict()))
    return file


def test_a_batch_larger_than_the_data_is_a_mistake(fashion: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.batch_size: 361 is more than the 360"):
        run(tiny(fashion, {"schedule.batch_size": 361}))


def test_a_baseline_that_is_the_method_is_one_run(fashion: Path) -> None:
    experiment = tiny(fashion, {"method": "ce", "baselines": ["ce"], "seeds": [0, 1]})
    jobs = student_jobs(experiment, (), load_data(experiment.data))
    assert [job.title for job in jobs] == ["ce seed 0", "ce seed 1"]


@pytest.mark.ray
@pytest.mark.slow
def test_what_is_done_is_not_done_again(fashion: Path, tmp_path: Path) -> None:
    """Recorded and trained; nothing; one more seed; the same with a Ray Train worker."""
    changes: dict[str, Any] = {"baselines": ["ce"]}
    first, shown = run(two_teachers(fashion, tmp_path, changes))
    assert [run.identity["method"] for run in first.runs] == ["ce", "kd"]
    assert not first.failures
    assert "recording: 2,160 images" in shown  # 2 teachers, 3 passes, 360 samples
    parts, runs = stamps(tmp_path, "*.arrow"), stamps(tmp_path, "last.pt")

    again, shown = run(two_teachers(fashion, tmp_path, changes))
    assert again == first
    assert DONE in shown

    more, shown = run(two_teachers(fashion, tmp_path, changes | {"seeds": [0, 1]}))
    assert len(more.runs) == 4
    assert "2 of 4 runs are finished; kept" in shown
    assert "all 6 parts are on disk; nothing to record" in shown
    assert stamps(tmp_path, "*.arrow") == parts
    assert runs.items() <= stamps(tmp_path, "last.pt").items()

    # A worker that wants all CPUs: the teachers cannot be beside it.
    other, shown = run(two_teachers(fashion, tmp_path, {"workers": {"count": 1, "cpus": 2}}))
    assert "do not fit side by side" in shown
    assert stamps(tmp_path, "*.arrow") == parts
    (ours,), theirs = other.runs, first.runs[1]
    assert ours.path != theirs.path
    rows = [run.metrics()["loss/total"].tolist() for run in (ours, theirs)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)
    assert 0 < ours.result()["teachers"]["a"]["parameters"] < 20_000


@pytest.mark.ray
def test_a_run_that_diverges_fails_alone_and_the_exit_status_says_so(
    fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"name": "kd", "kd_weight": 1e38}
    experiment = two_teachers(fashion, tmp_path, {"baselines": [bad], "schedule.epochs": 1})
    assert main(["train", str(write_yaml(experiment, tmp_path / "bad.yaml"))]) == 1
    # Two configurations of one method are told apart by their digests.
    failed = r"kd-[0-9a-f]{8} seed 0 FAILED: epoch 0: the loss is not finite"
    assert re.search(failed, capsys.readouterr().err)
    finished = [run.finished for run in find_runs(tmp_path / "runs")]
    assert sorted(finished) == [False, True]


@pytest.mark.ray
def test_an_automatic_teacher_is_trained_once_ever(fashion: Path, tmp_path: Path) -> None:
    def shown(**changes: Any) -> str:
        teacher = {
            "arch": "cnn_xs",
            "training": {"schedule": {"epochs": 2, "batch_size": 32}},
            "cpus": 0.5,
        }
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        common = {"teachers": [teacher], "method": "kd", "data.cache_dir": str(tmp_path / "c")}
        common |= {"output.root": str(tmp_path / "runs"), "schedule.epochs": 1}
        return run(tiny(fashion, common | changes))[1]

    assert "teachers to train first: cnn_xs" in shown()
    (file,) = (tmp_path / "c" / "teachers").glob("*.safetensors")
    assert "teachers to train first" not in shown(name="another", student__arch="cnn_s")
    assert stamps(tmp_path / "c" / "teachers", "*.safetensors") == {file: file.stat().st_mtime_ns}
    training = {"schedule": {"epochs": 1, "batch_size": 32}}
    other = {"arch": "cnn_xs", "training": training, "cpus": 0.5}
    assert "teachers to train first: cnn_xs" in shown(teachers=[other])
    assert len(files_below(tmp_path / "c" / "teachers", "*.safetensors")) == 2


# --- a driver of its own, with a Ray of its own


@pytest.fixture
def scratch() -> Iterator[Path]:
    """The driver's folder for temporary files, by which all its processes are known."""
    with tempfile.TemporaryDirectory(prefix="tt-", dir="/tmp") as folder:
        yield Path(folder)


def start(file: Path, scratch: Path, log: Path) -> subprocess.Popen[bytes]:
    """A driver in a session of its own, as a terminal starts one."""
    return subprocess.Popen(
        [sys.executable, "-m", "distill.run", "train", str(file)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def processes_of(scratch: Path, session: int) -> list[str]:
    """The commands of all processes of a driver's session, or that know its folder."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command, environment = ((entry / n).read_bytes() for n in ("cmdline", "environ"))
            status = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        marked = str(scratch).encode() in command + environment
        if status[0] != "Z" and (marked or int(status[3]) == session):
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)  # two drivers: a minute on a machine that does nothing else
def test_an_interrupted_driver_leaves_no_process_and_the_next_goes_on(
    fashion: Path, tmp_path: Path, scratch: Path
) -> None:
    changes = {"schedule.epochs": 30, "workers.count": 1}
    experiment = two_teachers(fashion, tmp_path, changes)
    file, log = write_yaml(experiment, tmp_path / "e.yaml"), tmp_path / "log"

    def epochs() -> list[int]:
        runs = find_runs(tmp_path / "runs") if (tmp_path / "runs").is_dir() else []
        tables = [run.metrics() for run in runs]
        return tables[0]["epoch"].tolist() if tables and len(tables[0]) else []

    driver = start(file, scratch, log)
    wait_until(lambda: len(epochs()) >= 3 or driver.poll() is not None, timeout_s=240)
    assert driver.poll() is None, log.read_text()
    assert any("RayTrainWorker" in command for command in processes_of(scratch, driver.pid))
    os.killpg(driver.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    assert driver.wait(timeout=60) == 130, log.read_text()
    wait_until(lambda: not processes_of(scratch, driver.pid), timeout_s=10)
    assert not list(scratch.glob("tutelage-*"))
    assert "the same command goes on from here" in log.read_text()
    (broken,) = find_runs(tmp_path / "runs")
    num_done = len(epochs())
    assert num_done < 30
    assert not broken.finished

    driver = start(file, scratch, log)
    assert driver.wait(timeout=240) == 0, log.read_text()
    assert not processes_of(scratch, driver.pid)
    assert "nothing to record" in log.read_text()
    assert f"30 epochs, from {num_done}" in log.read_text()
    assert epochs() == list(range(30))

    outcome, _ = run(two_teachers(fashion, tmp_path, changes | {"workers.count": 0}))
    assert torch.equal(filed_weights(outcome.runs[0].path), filed_weights(broken.path))
    assert RunFolder(broken.path).finished
