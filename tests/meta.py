"""Small factories for MMKD and its learner: teachers' answers, views, learners in step."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.config import SGD
from distill.learners import BilevelLearner, Compute
from distill.learners.bilevel import meta_gradient
from distill.learners.hard_buffer import HardViews
from distill.methods import config_class
from distill.methods.mmkd import MMKD
from distill.models import build_model
from distill.models.base import Normalized
from distill.parallel import ALONE, Workers
from distill.signals import (
    LOGITS,
    Batch,
    LossReport,
    Progress,
    SignalShapes,
    SignalSpec,
    TeacherSignals,
)
from tests.golden.case import Case

GOLDEN = Path(__file__).parent / "golden"
SPEC, MAP = SignalSpec(LOGITS), SignalSpec("stage3")
START = Progress(0, 0, 1, 1)
HEAVY_BALL = SGD()
CLASSES, WIDTH = 4, 8
MAPS = {"t0": (5, 2, 2), "t1": (7, 1, 1), "t2": (3, 4, 4)}  # wider, as small, and larger
DEFAULTS: dict[str, Any] = {"meta_batch": WIDTH, "buffer_size": 2 * WIDTH, "meta_every": 2}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shapes(names: tuple[str, ...], *, batch_size: int = WIDTH) -> SignalShapes:
    taps: dict[str, Any] = {name: {MAP.tap: MAPS[name], "pooled": None} for name in names}
    return SignalShapes(
        num_classes=CLASSES,
        batch_size=batch_size,
        student={"stage3": (40, 1, 1), "pooled": (40,), LOGITS: (CLASSES,)},
        teachers={name: {SPEC: (CLASSES,), MAP: MAPS[name]} for name in names},
        taps=taps,
    )


def build(
    names: tuple[str, ...] = tuple(MAPS), *, batch_size: int = WIDTH, **settings: Any
) -> MMKD:
    torch.manual_seed(0)
    method = config_class("mmkd")(**DEFAULTS | settings).build(shapes(names, batch_size=batch_size))
    assert isinstance(method, MMKD)
    return method


def answers(names: tuple[str, ...], num: int, *, seed: int) -> TeacherSignals:
    return TeacherSignals(
        {
            name: {
                SPEC: draw(num, CLASSES, seed=seed + k),
                MAP: draw(num, *MAPS[name], seed=seed - k),
            }
            for k, name in enumerate(names)
        }
    )


class Answering:
    """A source whose answers are drawn from a batch's first index."""

    seconds_waited = 0.0

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def prefetch(self, batch: Batch) -> None: ...

    def signals(self, batch: Batch) -> TeacherSignals:
        return answers(self.names, len(batch), seed=1000 + int(batch.indices[0]))

    def close(self) -> None: ...


def batch_of(num: int = WIDTH, *, seed: int = 0) -> Batch:
    images = np.random.default_rng(seed).integers(0, 256, (num, 1, 8, 8), dtype=np.uint8)
    rows = np.arange(num)
    labels = torch.from_numpy(rows % CLASSES)
    return Batch(rows, rows, 0, torch.from_numpy(images), labels, num_global=num)


def student(norm: str = "batch") -> Normalized:
    torch.manual_seed(1)
    options = {"norm": norm}
    net = build_model("cnn_xs", num_classes=CLASSES, in_channels=1, image_size=8, options=options)
    return Normalized(net, mean=[0.5], std=[0.5])


def make(
    names: tuple[str, ...] = tuple(MAPS),
    *,
    sgd: SGD = HEAVY_BALL,
    norm: str = "batch",
    workers: Workers = ALONE,
    **settings: Any,
) -> BilevelLearner:
    compute = Compute(torch.device("cpu"), workers)
    return BilevelLearner(student(norm), build(names, **settings), optimizer=sgd, compute=compute)


def train(
    learner: BilevelLearner,
    num_steps: int,
    *,
    names: tuple[str, ...] = tuple(MAPS),
    lr: float = 0.05,
) -> list[LossReport]:
    """Steps on batches of their own, as one epoch after a fixed seed."""
    torch.manual_seed(7)
    reports: list[LossReport] = []
    for step in range(num_steps):
        batch, signals = batch_of(seed=step), answers(names, WIDTH, seed=100 * step)
        progress = Progress(0, step, 1, num_steps)
        reports.append(learner.step(batch, signals, progress=progress, lr=lr)[0])
    return reports


def weights_of(learner: BilevelLearner) -> Tensor:
    return nn.utils.parameters_to_vector(learner.weights).detach()


def snapshot(learner: BilevelLearner) -> dict[str, Any]:
    state = learner.state_dict()
    method = {k: v for k, v in state["method"].items() if not k.startswith("weights.")}
    return copy.deepcopy({"student": state["student"], "sgd": state["optimizer"], "method": method})


def same(left: Any, right: Any) -> bool:
    """Equal to the bit, however deeply nested."""
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


PROJECTOR_LAYERS = {"0": "layers.0", "1": "layers.1"}
_NET_LAYERS = {"layer": "hidden", "all_act": "output"}


def golden_method(
    case: Case, features: list[Tensor], teacher_logits: Tensor, channels: int
) -> MMKD:
    """MMKD in the shapes of a golden case, with the weight nets' parameters of the file."""
    names = [f"t{k}" for k in range(len(features))]
    known = SignalShapes(
        num_classes=teacher_logits.shape[2],
        batch_size=teacher_logits.shape[1],
        student={"stage3": (channels, 2, 2)},
        teachers={n: {MAP: tuple(f.shape[1:])} for n, f in zip(names, features, strict=True)},
        taps={n: {"stage3": tuple(f.shape[1:])} for n, f in zip(names, features, strict=True)},
    )
    hp = {name: case.hp[name] for name in ("temperature", "alpha", "beta") if name in case.hp}
    method = config_class("mmkd")(**hp).build(known)
    assert isinstance(method, MMKD)
    case.load(method.logit_net, "logit_net.", _NET_LAYERS)
    case.load(method.feature_net, "feature_net.", _NET_LAYERS)
    return method


def golden_signals(teacher_logits: Tensor, features: list[Tensor]) -> TeacherSignals:
    pairs = zip(teacher_logits, features, strict=True)
    return TeacherSignals({f"t{k}": {SPEC: z, MAP: f} for k, (z, f) in enumerate(pairs)})


def gradient_of(
    learner: BilevelLearner, hard: HardViews, *, lr: float = 0.01
) -> tuple[Tensor, Tensor]:
    loss, grads = meta_gradient(
        learner.student,
        learner.method,
        hard,
        learner.optimizer,
        settings=learner.settings,
        lr=lr,
    )
    return loss, nn.utils.parameters_to_vector(grads)


def work(rank: int) -> dict[str, Any]:
    """As one of two workers: train on batches of its own, take a meta step, say what came of it."""
    learner = make(workers=Workers(rank, 2), meta_every=4)
    for step in range(4):
        batch = replace(batch_of(seed=10 * step + rank), num_global=2 * WIDTH)
        signals = answers(tuple(MAPS), WIDTH, seed=100 * step + rank)
        learner.step(batch, signals, progress=Progress(0, step, 1, 4), lr=0.05)
    hard = learner.buffer.draw(WIDTH, generator=torch.Generator().manual_seed(0))
    _, alone = gradient_of(learner, hard, lr=0.05)
    learner.meta_step(lr=0.05, generator=torch.Generator().manual_seed(0))
    return {
        "alone": alone,
        "averaged": nn.utils.parameters_to_vector([weight.grad for weight in learner.weights]),
        "weights": weights_of(learner),
        "row": dict(learner.end_epoch()),
        "buffer": learner.buffer.state_dict(),
        "buffers": learner.state_dict()["buffers"],
    }
