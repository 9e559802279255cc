"""What can go wrong in a sweep: processes of trials, of their workers and the driver are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.runs import RunFolder
from orchestrator.trial_files import Trial, read_trials
from tests.fault_helpers import Commands, Run, descendants
from tests.helpers import tiny, write_fashion, write_teacher

# A sweep starts Ray, and a process for every trial: twice of each here.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SPACE = "from ray import tune\nSPACE = {'method.temperature': tune.choice([1.0, 2.0, 4.0])}\n"
# The first learns, the others do not: a scheduler stops them.
RATES = "from ray import tune\nSPACE = {'optimizer.lr': tune.choice([0.05, 1e-6, 1e-7])}\n"
EPOCHS = 15


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    started = Commands(tmp_path)
    yield started
    started.close()


def write_sweep(folder: Path, **changes) -> list[str]:
    """The arguments of a sweep of three trials in ``folder``."""
    write_fashion(folder / "few.npz", num_train=240, num_test=20)
    teacher = {"name": "t", "arch": "cnn_xs", "checkpoint": str(folder / "t.safetensors")}
    fields = {
        "teachers": [teacher],
        "method": "kd",
        "schedule.epochs": EPOCHS,
        "signals": {"root": str(folder / "signals"), "passes": 1},
        "output.root": str(folder / "runs"),
        "data.cache_dir": str(folder / "cache"),
    }
    experiment = tiny(folder / "few.npz", fields | changes)
    write_teacher(folder / "t.safetensors", experiment, "cnn_xs", seed=0)
    (folder / "exp.yaml").write_text(yaml.safe_dump(experiment.as_dict()))
    (folder / "mine.py").write_text(SPACE)
    options = ["--space", str(folder / "mine.py"), "--search", "grid", "--seeds", "1"]
    return ["tune", str(folder / "exp.yaml"), *options]


def trials(folder: Path) -> dict[int, Trial]:
    found = read_trials(folder / "runs" / "tiny" / "tune-mine", "accuracy/validation")
    return {trial.number: trial for trial in found}


def processes(run: Run, named: str) -> list[int]:
    """Process ids below a command whose titles hold ``named``."""

    def title(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    return [p.pid for p in descendants(run.process.pid) if named in title(p.pid)]


def has_trained(folder: Path, epochs: int) -> Callable[[], bool]:
    return lambda: any(t.epochs >= epochs for t in trials(folder).values())


def check_complete(folder: Path) -> None:
    """Three trials, every epoch of each reported once; the best one's settings tested once."""
    found = trials(folder)
    assert {t.state for t in found.values()} == {"finished"}
    assert len(found) == 3
    for trial in found.values():
        assert trial.run.metrics()["epoch"].tolist() == list(range(EPOCHS))
    (result,) = folder.glob("runs/tiny-*-best/*/seed-1/result.json")
    assert json.loads(result.read_text())["test_accuracy"] is not None


def test_a_killed_trial_goes_on_and_a_killed_driver_resumes(
    commands: Commands, tmp_path: Path
) -> None:
    arguments = write_sweep(tmp_path)
    run = commands.start(*arguments)
    run.until(has_trained(tmp_path, 3))
    os.kill(processes(run, "ray::ImplicitFunc")[0], signal.SIGKILL)
    run.until(lambda: "its process died; it goes on from its last epoch" in run.text)
    run.until(lambda: any(t.state == "finished" for t in trials(tmp_path).values()))
    run.kill()
    before = {n: written(t.run) for n, t in trials(tmp_path).items() if t.state == "finished"}
    assert before
    assert len(before) < 3
    resumed = commands.run(*arguments, "--resume")
    assert f"{len(before)} of 3 trials have ended; kept" in resumed.text
    assert {n: written(trials(tmp_path)[n].run) for n in before} == before
    check_complete(tmp_path)


def test_an_interrupted_search_chooses_nothing(commands: Commands, tmp_path: Path) -> None:
    """Its best settings are not known: no seeds are trained under those that led so far."""
    run = commands.start(*write_sweep(tmp_path))
    run.until(has_trained(tmp_path, 1))
    os.kill(run.process.pid, signal.SIGINT)
    assert run.end() == 130, run.text
    assert "the same command with --resume goes on from here" in run.text
    assert not list(tmp_path.glob("runs/**/best.yaml"))
    assert not list(tmp_path.glob("runs/tiny-*-best"))


def written(run: RunFolder) -> int:
    return (run.path / "result.json").stat().st_mtime_ns


def test_a_killed_worker_and_stopped_trials_leave_no_sweep_hanging(
    commands: Commands, tmp_path: Path
) -> None:
    """ASHA stops trials of two workers each: what they held must come free for the next."""
    changes = {"workers": {"count": 2, "cpus": 1}, "schedule.epochs": 6}
    arguments = write_sweep(tmp_path, **changes)
    (tmp_path / "mine.py").write_text(RATES)
    run = commands.start(*arguments, "--scheduler", "asha")
    run.until(has_trained(tmp_path, 1))
    os.kill(processes(run, "ray::RayTrainWorker")[0], signal.SIGKILL)
    assert run.end(limit_s=500) == 0, run.text
    states = [trial.state for _, trial in sorted(trials(tmp_path).items())]
    assert states[0] == "finished"
    assert "stopped" in states
    assert len(states) == 3
