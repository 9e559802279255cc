"""Whole runs by the bilevel and the adaptive-teacher learner: filed, broken off, gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.datasets import load_data
from orchestrator.jobs import student_jobs
from orchestrator.preflight import check
from orchestrator.preparation import file_accuracy
from orchestrator.runs import RunFolder
from orchestrator.students import EpochEvent, Event, StudentJob, train_students
from tests.helpers import prepare, two_teachers
from tests.meta import same

METHODS: dict[str, dict[str, Any]] = {
    # Recorded signals would have to be there before; teachers in the worker give the same ones.
    "mmkd": {"method": {"name": "mmkd", "buffer_size": 64}, "signals.source": "local"},
    "atsc": {"method": "atsc"},
}


def job_of(file: Path, folder: Path, changes: dict[str, Any]) -> StudentJob:
    """The one run of an experiment with two unlike teachers."""
    folder.mkdir(exist_ok=True)
    experiment = two_teachers(file, folder, {"schedule.epochs": 2} | changes)
    check(experiment)
    data, teachers = load_data(experiment.data), prepare(experiment)
    for teacher in teachers:
        file_accuracy(teacher, data, 0.5)
    (job,) = student_jobs(experiment, teachers, data)
    return job


def train(job: StudentJob, *, until: int = 9) -> None:
    """Train, or be broken off after ``until`` epochs."""

    def on_event(event: Event) -> None:
        if isinstance(event, EpochEvent) and event.epoch == until:
            raise KeyboardInterrupt

    train_students([job], job.experiment.workers, storage=job.folder, on_event=on_event)


def filed(job: StudentJob) -> dict[str, Any]:
    path = RunFolder(job.folder).checkpoint("last")
    return torch.load(path, weights_only=True)["learner"]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_broken_off_ends_as_an_unbroken_one(
    name: str, fashion: Path, tmp_path: Path
) -> None:
    whole, broken = (
        job_of(fashion, tmp_path / part, METHODS[name]) for part in ("whole", "broken")
    )
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(broken, until=1)
    train(broken)
    assert same(filed(broken), filed(whole))
    one, other = (RunFolder(job.folder).result() for job in (whole, broken))
    assert one["test_accuracy"] == other["test_accuracy"]
    assert (one["parameters_added"] > 0) == (name == "atsc")


def test_epochs_report_what_the_learners_add(fashion: Path, tmp_path: Path) -> None:
    found: dict[str, set[str]] = {}
    for name, changes in METHODS.items():
        job = job_of(fashion, tmp_path / name, changes)
        train(job)
        table = RunFolder(job.folder).metrics()
        assert table.notna().all(axis=None)
        found[name] = set(table.columns)
    assert {"meta/loss", "teacher_weight/a", "feature_weight/b"} <= found["mmkd"]
    assert {"teacher_drift/a", "method/teacher_accuracy/b", "loss/penalty"} <= found["atsc"]


def test_resident_teachers_come_along_and_nothing_is_recorded(
    fashion: Path, tmp_path: Path
) -> None:
    job = job_of(fashion, tmp_path, METHODS["atsc"])
    assert job.recordings == ()
    assert job.signal_bytes == 0
    assert [recipe.name for recipe in job.recipes] == ["a", "b"]


def test_a_resident_teacher_names_the_run(fashion: Path, tmp_path: Path) -> None:
    one = job_of(fashion, tmp_path / "one", METHODS["atsc"])
    other = job_of(fashion, tmp_path / "other", METHODS["atsc"] | {"teachers[1].arch": "resnet14"})
    assert one.digest != other.digest


def test_resident_teachers_are_sent_with_the_taps_they_are_read_at(
    fashion: Path, tmp_path: Path
) -> None:
    taps = {"teachers[0].arch": "tests.residents:plain_network", "teachers[0].taps": ["1"]}
    job = job_of(fashion, tmp_path, METHODS["atsc"] | taps)
    train(job)
    assert "teacher_drift/a" in RunFolder(job.folder).metrics().columns
