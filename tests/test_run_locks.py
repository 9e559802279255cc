"""Two processes never train in one folder; side by side they train whatever else they like."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from ray import tune

from distill.config import Experiment
from distill.datasets import load_data
from orchestrator.candidates import Space
from orchestrator.display import Display
from orchestrator.jobs import student_jobs
from orchestrator.pipeline import run_experiment
from orchestrator.run_locks import alone, training_lock
from orchestrator.runs import RunFolder
from orchestrator.students import StudentJob
from orchestrator.sweep_plan import Plan, sweep_folder
from orchestrator.sweeps import run_sweep
from tests.helpers import tiny

BUSY = rf": process {os.getpid()} on host \S+ is training here; wait until it has ended, or end it"


@pytest.fixture
def experiment(fashion: Path, tmp_path: Path) -> Experiment:
    """Two runs, without teachers."""
    return tiny(fashion, {"seeds": [0, 1], "output.root": str(tmp_path / "runs")})


def jobs_of(experiment: Experiment) -> list[StudentJob]:
    return student_jobs(experiment, (), load_data(experiment.data))


def test_runs_of_one_experiment_are_trained_side_by_side_and_none_twice(
    experiment: Experiment,
) -> None:
    first, second = jobs_of(experiment)
    with alone([first]), alone([second]) as todo:
        assert todo == [second]
        with pytest.raises(BlockingIOError, match=f"{second.folder}{BUSY}"), alone([second]):
            pass
    with alone([first, second]) as todo:
        assert todo == [first, second]


def test_a_run_that_is_finished_is_nobodys(experiment: Experiment) -> None:
    first, second = jobs_of(experiment)
    with training_lock(first.folder):
        (RunFolder(first.folder).path / "result.json").touch()
        with alone([first, second]) as todo:
            assert todo == [second]


@pytest.mark.ray
def test_train_refuses_a_run_that_another_process_trains(experiment: Experiment) -> None:
    _, second = jobs_of(experiment)
    refused = pytest.raises(BlockingIOError, match=f"{second.folder}{BUSY}")
    with training_lock(second.folder), Display(io.StringIO()) as display, refused:
        run_experiment(experiment, display)
    assert not [job for job in jobs_of(experiment) if (job.folder / "config.yaml").exists()]


def test_a_sweep_is_refused_while_another_process_works_on_it(experiment: Experiment) -> None:
    space = Space.of("rates", {"optimizer.lr": tune.choice([0.1])})
    folder = sweep_folder(experiment, space)
    refused = pytest.raises(BlockingIOError, match=f"{folder}{BUSY}")
    with training_lock(folder), Display(io.StringIO()) as display, refused:
        run_sweep(experiment, space, Plan(num_trials=1), display)
