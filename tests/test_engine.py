"""fit and evaluate: students learn, resume to the bit, and every knob has its effect."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.config import Schedule
from distill.engine import LOG_EVERY, DivergedError, evaluate, fit, learning_rate
from distill.signals import Progress
from orchestrator.sources import NoSource
from tests.helpers import CPU, Diary, flat_weights, make_fit, tiny

STEPS = 11  # 360 training images in batches of 32


def train(file: Path, changes: Mapping[str, Any] | None = None, *, seed: int = 0) -> Diary:
    task, learner = make_fit(tiny(file, changes), seed=seed)
    diary = Diary()
    fit(task, learner, NoSource(), diary)
    return diary


def weights(diary: Diary) -> torch.Tensor:
    return torch.cat([v.double().flatten() for v in diary.states[-1]["student"].values()])


@pytest.fixture(scope="module")
def base(fashion: Path) -> Diary:
    return train(fashion)


def test_a_student_learns(fashion: Path) -> None:
    diary = train(fashion, {"schedule.epochs": 6})
    losses = diary.losses()
    assert losses[-1] < 0.7 * losses[0]
    assert diary.rows[-1]["accuracy/validation"] > 0.4  # chance: 0.1
    assert diary.rows[-1]["accuracy/train"] > diary.rows[0]["accuracy/train"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    fashion: Path, base: Diary
) -> None:
    assert torch.equal(weights(train(fashion)), weights(base))
    assert not torch.equal(weights(train(fashion, seed=1)), weights(base))


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer.lr": 0.04},
        {"optimizer.momentum": 0.5},
        {"optimizer.weight_decay": 0.01},
        {"optimizer.nesterov": True},
        {"optimizer.clip_norm": 0.1},
        {"optimizer.name": "adamw"},
        {"schedule.epochs": 1},
        {"schedule.batch_size": 16},
        {"schedule.kind": "constant"},
        {"schedule.kind": "step"},
        {"schedule.warmup": 0.3},
        {"workers.precision": "bfloat16"},
        {"views.padding": 2},
        {"signals.plan_seed": 1},
        {"signals.passes": 1},
    ],
    ids=str,
)
def test_every_knob_of_training_changes_the_weights(
    fashion: Path, base: Diary, change: dict[str, Any]
) -> None:
    assert not torch.equal(weights(train(fashion, change)), weights(base))


@pytest.mark.parametrize(
    ("common", "change"),
    [
        ({"schedule.kind": "step"}, {"schedule.milestones": [0.25]}),
        ({"schedule.kind": "step"}, {"schedule.gamma": 0.5}),
        ({"optimizer.name": "adamw"}, {"optimizer.betas": [0.8, 0.999]}),
        ({"optimizer.name": "adamw"}, {"optimizer.weight_decay": 0.5}),
        ({"optimizer.name": "adamw"}, {"optimizer.lr": 0.01}),
        ({"optimizer.name": "adamw"}, {"optimizer.clip_norm": 1e-3}),
    ],
    ids=str,
)
def test_every_knob_of_one_kind_changes_the_weights(
    fashion: Path, common: dict[str, Any], change: dict[str, Any]
) -> None:
    assert not torch.equal(
        weights(train(fashion, common)), weights(train(fashion, common | change))
    )


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [({"workers.precision": "bfloat16"}, 0.03), ({"workers.channels_last": True}, 1e-3)],
    ids=str,
)
def test_other_arithmetic_stays_close(
    fashion: Path, base: Diary, change: dict[str, Any], tolerance: float
) -> None:
    losses = train(fashion, change).losses()
    assert losses == pytest.approx(base.losses(), rel=tolerance)


def test_channels_last_lays_out_the_weights(fashion: Path) -> None:
    _, learner = make_fit(tiny(fashion, {"workers.channels_last": True}))
    convolution = learner.student.get_parameter("network.stage2.0.weight")
    assert convolution.is_contiguous(memory_format=torch.channels_last)


# --- resuming


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.nesterov": True},
        {"optimizer.name": "adamw", "signals.passes": 2},
        {"student": {"arch": "tests.helpers:dropout_network"}, "schedule.warmup": 0.5},
    ],
    ids=["batchnorm and momentum", "adamw", "dropout"],
)
def test_resuming_gives_the_weights_of_an_unbroken_run(
    fashion: Path, changes: dict[str, Any]
) -> None:
    experiment = tiny(fashion, {"schedule.epochs": 3} | changes)
    whole, rest = Diary(), Diary()
    task, learner = make_fit(experiment)
    fit(task, learner, NoSource(), whole)
    file = io.BytesIO()
    torch.save(whole.states[0], file)
    file.seek(0)
    task, learner = make_fit(experiment, seed=0)
    learner.load_state_dict(torch.load(file, weights_only=True))
    torch.rand(7)  # whatever else drew random numbers meanwhile
    fit(task, learner, NoSource(), rest, start_epoch=1)
    assert rest.losses() == whole.losses()[1:]
    assert torch.equal(weights(rest), weights(whole))


def test_resuming_a_finished_run_trains_nothing(fashion: Path) -> None:
    task, learner = make_fit(tiny(fashion))
    before, diary = flat_weights(learner.student), Diary()
    fit(task, learner, NoSource(), diary, start_epoch=2)
    assert not diary.rows
    assert torch.equal(flat_weights(learner.student), before)


# --- learning rates


def rate(schedule: dict[str, Any], epoch: int, step: int, *, base: float = 0.4) -> float:
    return learning_rate(Schedule(epochs=10, **schedule), base, Progress(epoch, step, 10, 4))


@pytest.mark.parametrize(
    ("schedule", "epoch", "step", "expected"),
    [
        ({"kind": "constant"}, 9, 3, 0.4),
        ({"kind": "cosine"}, 0, 0, 0.4),
        ({"kind": "cosine"}, 2, 2, 0.2 * (1 + math.cos(math.pi / 4))),
        ({"kind": "cosine"}, 5, 0, 0.2),
        ({"kind": "cosine"}, 9, 3, 0.2 * (1 + math.cos(math.pi * 0.975))),
        ({"kind": "step"}, 6, 0, 0.4),
        ({"kind": "step"}, 6, 1, 0.04),  # 0.625 of 40 steps are 25
        ({"kind": "step"}, 7, 2, 0.004),
        ({"kind": "step"}, 9, 3, 0.0004),
        ({"kind": "step", "gamma": 0.5, "milestones": [0.1, 0.2]}, 2, 0, 0.1),
        ({"kind": "constant", "warmup": 0.2}, 0, 0, 0.05),  # an eighth of 8 steps
        ({"kind": "constant", "warmup": 0.2}, 1, 3, 0.4),
        ({"kind": "cosine", "warmup": 0.2}, 2, 0, 0.4),
        ({"kind": "cosine", "warmup": 0.2}, 6, 0, 0.2),
    ],
)
def test_learning_rates_by_hand(
    schedule: dict[str, Any], epoch: int, step: int, expected: float
) -> None:
    assert rate(schedule, epoch, step) == pytest.approx(expected, rel=1e-12)


def test_the_rate_of_every_step_is_the_schedules(fashion: Path) -> None:
    diary = train(fashion, {"schedule.epochs": 10, "schedule.kind": "cosine"})
    schedule = Schedule(epochs=10)
    assert list(diary.rates) == [LOG_EVERY, 2 * LOG_EVERY]
    for step, lr in diary.rates.items():
        epoch, within = divmod(step - 1, STEPS)
        assert lr == learning_rate(schedule, 0.05, Progress(epoch, within, 10, STEPS))
    last = learning_rate(schedule, 0.05, Progress(9, STEPS - 1, 10, STEPS))
    assert diary.rows[-1]["learning_rate"] == last


# --- what epochs report


def test_a_row_says_what_was_trained(base: Diary) -> None:
    row = base.rows[0]
    assert row["loss/total"] == pytest.approx(row["loss/ce"], rel=1e-6)
    assert row["wait/signals_s"] == 0
    images = row["throughput/images_per_s"] * row["seconds/epoch"]
    assert images == pytest.approx(STEPS * 32)
    assert 0 <= row["accuracy/train"] <= 1


def test_without_a_validation_split_no_accuracy_is_claimed(fashion: Path) -> None:
    row = train(fashion, {"data.validation": 0, "schedule.epochs": 1}).rows[0]
    assert "accuracy/validation" not in row
    assert math.isfinite(row["loss/total"])


def test_a_loss_that_is_not_finite_ends_training_and_says_where(fashion: Path) -> None:
    with pytest.raises(DivergedError, match=r"epoch 0: .*not finite.*loss/ce = nan.*lower lr"):
        train(fashion, {"optimizer.lr": 1e30})


def test_weights_that_the_last_step_has_broken_are_not_tested(fashion: Path) -> None:
    only_step = {"schedule.batch_size": 360, "schedule.epochs": 1}
    with pytest.raises(DivergedError, match="epoch 0: weights are not finite"):
        train(fashion, only_step | {"optimizer.lr": 3e38, "optimizer.weight_decay": 1e3})


# --- evaluation


def test_evaluate_is_the_share_of_right_answers(fashion: Path) -> None:
    task, learner = make_fit(tiny(fashion))
    student, split = learner.student.eval(), task.validation
    images, labels = split.gather(np.arange(len(split)))
    answers = [int(student(torch.from_numpy(i[None])).logits.argmax()) for i in images]
    naive = np.mean([answer == label for answer, label in zip(answers, labels, strict=True)])
    assert evaluate(student, split, device=CPU) == pytest.approx(naive, abs=1e-12)


def test_evaluate_changes_neither_modes_nor_statistics(fashion: Path) -> None:
    task, learner = make_fit(tiny(fashion))
    student = learner.student.train()
    frozen = student.get_submodule("network.stem").eval()
    before = [buffer.clone() for buffer in student.buffers()]
    evaluate(student, task.validation, device=CPU)
    assert student.training
    assert student.get_submodule("network.stage1.1").training
    assert not any(module.training for module in frozen.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, student.buffers(), strict=True))
