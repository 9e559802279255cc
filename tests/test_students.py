"""Students: run folders, resuming, failures; one worker, two, and one that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.datasets import load_data
from distill.loading import validate
from orchestrator.jobs import student_jobs
from orchestrator.run_student import build_learner
from orchestrator.runs import RESULT_FIELDS, RunFolder
from orchestrator.students import (
    EpochEvent,
    Event,
    FailureEvent,
    StartEvent,
    StudentJob,
    train_students,
)
from tests.helpers import filed_weights, tiny

BARE = {"student.options": {"norm": "none"}}  # one worker's answer does not depend on another's


def jobs_of(file: Path, root: Path, changes: dict[str, Any] | None = None) -> list[StudentJob]:
    experiment = tiny(file, {"output.root": str(root), "schedule.epochs": 3} | (changes or {}))
    return student_jobs(experiment, (), load_data(experiment.data))


def train(jobs: list[StudentJob], on_event: Callable[[Event], None] | None = None) -> list[Event]:
    events: list[Event] = []

    def note(event: Event) -> None:
        events.append(event)
        if on_event is not None:
            on_event(event)

    config = jobs[0].experiment.workers
    train_students(jobs, config, storage=jobs[0].experiment.output.root, on_event=note)
    return events


def weights(job: StudentJob) -> torch.Tensor:
    return filed_weights(job.folder)


def epochs_of(job: StudentJob) -> list[int]:
    return RunFolder(job.folder).metrics()["epoch"].tolist()


@pytest.fixture(scope="module")
def unbroken(fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> StudentJob:
    (job,) = jobs_of(fashion, tmp_path_factory.mktemp("unbroken"))
    train([job])
    return job


def test_a_run_leaves_everything_behind(unbroken: StudentJob) -> None:
    run = RunFolder(unbroken.folder)
    names = {path.name for path in run.path.iterdir()}
    assert {"config.yaml", "metrics.parquet", "environment.json", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert all(run.checkpoint(name).is_file() for name in ("last", "best"))
    result = run.result()
    assert result is not None
    assert set(RESULT_FIELDS) <= set(result)
    assert (result["method"], result["seed"], result["epochs"]) == ("ce", 0, 3)
    assert result["validation_accuracy"] == run.metrics()["accuracy/validation"].max()
    assert epochs_of(unbroken) == [0, 1, 2]


def test_a_runs_config_is_an_experiment_that_trains_it_again(unbroken: StudentJob) -> None:
    text = (unbroken.folder / "config.yaml").read_text()
    again = validate(yaml.safe_load(text))
    assert (again.methods, again.seeds) == ((unbroken.method,), (unbroken.seed,))
    (job,) = student_jobs(again, (), load_data(again.data))
    assert job.folder == unbroken.folder


def test_a_finished_run_is_left_alone(unbroken: StudentJob) -> None:
    before = weights(unbroken)
    assert train([unbroken]) == []
    assert torch.equal(weights(unbroken), before)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_run_broken_after_an_epoch_ends_as_an_unbroken_one(
    fashion: Path, tmp_path: Path, unbroken: StudentJob, last: int
) -> None:
    (job,) = jobs_of(fashion, tmp_path)

    def interrupt(event: Event) -> None:
        if isinstance(event, EpochEvent) and event.epoch == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([job], interrupt)
    assert not RunFolder(job.folder).finished
    events = train([job])
    assert events[0] == StartEvent(job.title, 3, last)
    assert [event.epoch for event in events[1:]] == list(range(last + 1, 4))
    assert epochs_of(job) == [0, 1, 2]
    assert torch.equal(weights(job), weights(unbroken))
    ours, theirs = (RunFolder(j.folder).result() for j in (job, unbroken))
    same = ("test_accuracy", "test_accuracy_best", "best_epoch", "validation_accuracy")
    assert [ours[name] for name in same] == [theirs[name] for name in same]


def test_a_run_that_diverges_is_reported_and_the_others_finish(
    fashion: Path, tmp_path: Path
) -> None:
    (good,) = jobs_of(fashion, tmp_path)
    (bad,) = jobs_of(fashion, tmp_path, {"optimizer.lr": 1e30})
    events = train([bad, good])
    (failure,) = [event for event in events if isinstance(event, FailureEvent)]
    assert "epoch 0" in failure.reason
    assert not RunFolder(bad.folder).finished
    assert RunFolder(good.folder).finished


def test_seeds_and_settings_have_folders_of_their_own(fashion: Path, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"seeds": [0, 1]},
        {"schedule.epochs": 2},
        {"optimizer.lr": 0.1},
        {"views.padding": 2},
        {"student.arch": "cnn_s"},
        {"data.split_seed": 1},
        {"workers.precision": "bfloat16"},
        {"workers.count": 2},
    ]
    folders = [job.folder for change in changes for job in jobs_of(fashion, tmp_path, change)]
    assert len(set(folders)) == len(folders) == 9
    assert folders[0] == jobs_of(fashion, tmp_path, {"workers.cpus": 2})[0].folder


def test_the_first_weights_depend_on_the_seed_alone(fashion: Path, tmp_path: Path) -> None:
    from distill.learners import Compute

    def first(seed: int, **changes: Any) -> torch.Tensor:
        (job,) = jobs_of(fashion, tmp_path, {"seeds": [seed]} | changes)
        torch.rand(seed + 3)
        learner = build_learner(job, load_data(job.experiment.data), Compute(torch.device("cpu")))
        return torch.nn.utils.parameters_to_vector(learner.student.parameters())

    assert torch.equal(first(0), first(0, **{"optimizer.lr": 1.0}))
    assert not torch.equal(first(0), first(1))


# --- with Ray Train


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_follow_one(fashion: Path, tmp_path: Path) -> None:
    """One group trains all runs: one that fits 2 workers, one of odd batches, one that fails."""
    two = {"workers.count": 2, "schedule.epochs": 1}
    changes = [BARE, BARE | {"schedule.batch_size": 45}, {"optimizer.lr": 1e30}]
    jobs = [job for change in changes for job in jobs_of(fashion, tmp_path / "2", change | two)]
    events = train(jobs)
    assert [type(e).__name__ for e in events] == ["StartEvent", "EpochEvent"] * 2 + [
        "StartEvent",
        "FailureEvent",
    ]
    assert not RunFolder(jobs[2].folder).finished
    assert not list(tmp_path.rglob("train-*"))  # nothing of Ray Train's own is left
    for ours, change in zip(jobs[:2], changes[:2], strict=True):
        (alone,) = jobs_of(fashion, tmp_path / "1", change | {"schedule.epochs": 1})
        train([alone])
        error = (weights(ours) - weights(alone)).norm() / weights(alone).norm()
        assert error < 1e-4
        row, reference = (RunFolder(j.folder).metrics().iloc[0] for j in (ours, alone))
        assert row["loss/total"] == pytest.approx(reference["loss/total"], rel=1e-4)
        assert row["accuracy/validation"] == reference["accuracy/validation"]
        result = RunFolder(ours.folder).result()
        assert result is not None
        assert result["workers"] == 2


def worker_processes() -> list[int]:
    """The Ray Train workers among all that this process has started, and theirs in turn."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
            except OSError:  # it has ended meanwhile
                continue
    found: list[int] = []
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and b"RayTrainWorker" in _command(pid):
            found.append(pid)
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_ends_as_an_unbroken_one(
    fashion: Path, tmp_path: Path
) -> None:
    long = {"schedule.epochs": 20}  # the news of the first epoch comes long before the last
    (job,) = jobs_of(fashion, tmp_path / "killed", long | {"workers.count": 1})
    (whole,) = jobs_of(fashion, tmp_path / "whole", long)
    train([whole])
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, EpochEvent) and event.epoch == 1 and not killed:
            for pid in worker_processes():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    events = train([job], kill)
    assert len(killed) == 1
    starts = [event.start_epoch for event in events if isinstance(event, StartEvent)]
    assert starts[0] == 0
    assert 1 <= starts[1] < 20
    assert epochs_of(job) == list(range(20))
    assert torch.equal(weights(job), weights(whole))
