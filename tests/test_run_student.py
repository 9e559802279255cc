"""A run's corners: nothing to validate on, a student that diverges, shared statistics."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.datasets import load_data
from distill.learners import Compute, Learner
from distill.losses.weighting import capped_simplex_minimum
from orchestrator.run_checkpoints import write_checkpoint
from orchestrator.run_student import build_learner
from orchestrator.runs import RunFolder
from orchestrator.students import Event, FailureEvent, train_students
from tests.export_helpers import job_of, train
from tests.helpers import CPU, files_below


def test_without_validation_data_the_last_weights_are_the_best(
    fashion: Path, tmp_path: Path
) -> None:
    changes = {"data.validation": 0, "signals.source": "local"}
    run = RunFolder(train(job_of(fashion, tmp_path, changes)).folder)
    result = run.result()
    assert result["best_epoch"] == 1
    assert result["test_accuracy_best"] == result["test_accuracy"]
    assert result["validation_accuracy"] is None
    assert not run.checkpoint("best").exists()


def test_a_student_of_aekd_that_diverges_is_said_to(fashion: Path, tmp_path: Path) -> None:
    changes = {"method": "aekd", "signals.source": "local", "optimizer.lr": 1e30}
    job = job_of(fashion, tmp_path, changes)
    events: list[Event] = []
    train_students([job], job.experiment.workers, storage=tmp_path, on_event=events.append)
    (failure,) = [event for event in events if isinstance(event, FailureEvent)]
    assert "the loss is not finite" in failure.reason


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_of_gradients_that_are_not_finite_teachers_count_alike(wrong: float) -> None:
    gram = np.full((3, 3), wrong)
    assert capped_simplex_minimum(gram, cap=0.6).tolist() == [1 / 3] * 3


@pytest.mark.parametrize("shared", [False, True])
def test_shared_statistics_are_those_of_the_methods_parts_too(
    shared: bool, fashion: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"method": "simkd"}
    if shared:
        changes |= {"workers.gpus": 1, "workers.sync_batchnorm": True}
    job = job_of(fashion, tmp_path, changes)
    learner = build_learner(job, load_data(job.experiment.data), Compute(CPU))
    found = [isinstance(m, nn.SyncBatchNorm) for m in norms(learner)]
    assert found == [shared] * len(found)
    assert len(found) > 6


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    write_checkpoint(file, {"weights": torch.zeros(3)})
    before = file.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * len(before), limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_checkpoint(file, {"weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert files_below(tmp_path, "*") == {"last.pt": before}


def norms(learner: Learner) -> list[nn.Module]:
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return [module for module in learner.inference_model().modules() if isinstance(module, kinds)]
