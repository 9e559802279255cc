"""``checkpoint: auto``: what a trained teacher is filed under, and the data that it learns from."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from distill.datasets import load_data
from distill.loading import ConfigError
from orchestrator.preflight import check, check_data
from orchestrator.preparation import prepare_teachers
from orchestrator.run_locks import training_lock
from orchestrator.students import Event
from orchestrator.teacher_training import (
    auto_checkpoint,
    train_teachers,
    training_job,
    untrained,
)
from tests.helpers import tiny, write_fashion, write_noise

SCHEDULE = {"epochs": 1, "batch_size": 32}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Few samples to distil on, and more to train a teacher on."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return (
        write_fashion(tmp_path / "few.npz", num_train=80, num_test=20),
        write_fashion(tmp_path / "more.npz", num_train=240, num_test=20),
    )


def experiment(few: Path, more: Path | None):
    training = {"schedule": SCHEDULE}
    if more:
        training["data"] = {"name": "arrays", "file": str(more), "validation": 0}
    teacher = {"arch": "cnn_xs", "training": training}
    return tiny(few, {"teachers": [teacher], "method": "kd"})


def test_a_teacher_is_trained_on_its_own_data_and_expects_its_normalisation(files) -> None:
    job = experiment(*files)
    data, own = load_data(job.data), load_data(job.teachers[0].training.data)
    train_teachers(job, data, on_event=lambda _: None, tell=print)
    assert untrained(job, data) == []
    file = auto_checkpoint(job.teachers[0], job, data)
    recipe = prepare_teachers(job, data, {"cnn_xs": file})[0].serving.recipe
    assert np.allclose(recipe.mean, own.mean)
    assert not np.allclose(own.mean, data.mean)


def test_a_teacher_that_another_process_trains_is_waited_for_and_not_trained_twice(files) -> None:
    job = experiment(*files)
    data, teacher = load_data(job.data), job.teachers[0]
    told: list[str] = []
    events: list[Event] = []
    waiting = threading.Thread(
        target=train_teachers,
        args=(job, data),
        kwargs={"on_event": events.append, "tell": told.append},
    )
    with training_lock(training_job(teacher, job, data).folder):
        waiting.start()
        deadline = time.monotonic() + 60
        while waiting.is_alive() and not told and time.monotonic() < deadline:
            time.sleep(0.01)
        auto_checkpoint(teacher, job, data).touch()  # the other process files it
    waiting.join(60)
    assert told == [
        f"teacher cnn_xs: process {os.getpid()} on host {socket.gethostname()} trains it; "
        "waiting for it"
    ]
    assert events == []


def test_a_teacher_with_its_own_data_serves_every_experiment(files) -> None:
    few, more = files
    teacher = experiment(few, more).teachers[0]
    on_few, on_more = (experiment(file, more) for file in (few, more))
    names = {auto_checkpoint(teacher, job, load_data(job.data)).name for job in (on_few, on_more)}
    assert len(names) == 1
    alone = experiment(few, None)
    assert auto_checkpoint(alone.teachers[0], alone, load_data(alone.data)).name not in names


def test_data_of_other_images_is_a_mistake(files, tmp_path: Path) -> None:
    noise = write_noise(tmp_path / "noise.npz", num_train=80)
    with pytest.raises(ConfigError, match=r"teachers\[0\].training.data: 'arrays' has 4 classes"):
        check(experiment(files[0], noise))


def test_a_batch_is_held_against_the_teachers_own_data(files, monkeypatch) -> None:
    monkeypatch.setitem(SCHEDULE, "batch_size", 150)
    check_data(experiment(*files))
    with pytest.raises(ConfigError, match=r"batch_size: 150 is more than the 70 training samples"):
        check_data(experiment(files[0], None))
