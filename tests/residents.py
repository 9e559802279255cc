"""Small factories for ATSC and its learner: students beside teachers that live with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import SGD, AdamW
from distill.learners import AdaptiveTeacherLearner, Compute
from distill.methods import config_class
from distill.methods.atsc import AdaptiveTeaching
from distill.models import build_model
from distill.models.base import Normalized, feature_shapes
from distill.parallel import ALONE, Workers
from distill.signals import (
    Progress,
    SignalShapes,
    TeacherSignals,
)
from tests.meta import CLASSES, WIDTH, batch_of

START = Progress(0, 0, 1, 1)
NOTHING = TeacherSignals({})
ARCHS = {"a": "cnn_xs", "b": "resnet8"}  # maps of another size and of other channels
HEAVY_BALL = SGD()


def network(arch: str, *, seed: int, norm: str = "") -> Normalized:
    torch.manual_seed(seed)
    options = {"norm": norm} if norm else {}
    net = build_model(arch, num_classes=CLASSES, in_channels=1, image_size=8, options=options)
    return Normalized(net, mean=[0.5], std=[0.5])


def teachers(names: Sequence[str] = tuple(ARCHS)) -> dict[str, Normalized]:
    """Teachers whose BatchNorm has seen images."""
    made: dict[str, Normalized] = {}
    for name in names:
        made[name] = network(ARCHS[name], seed=10 + ord(name))
        with torch.no_grad():
            made[name](batch_of(64, seed=9).images)
    return made


def build(names: Sequence[str] = tuple(ARCHS), **settings: Any) -> AdaptiveTeaching:
    residents = teachers(names)
    taps = {name: feature_shapes(model, 1, 8) for name, model in residents.items()}
    student = feature_shapes(network("cnn_s", seed=1), 1, 8)
    torch.manual_seed(0)
    method = config_class("atsc")(**settings).build(
        SignalShapes(CLASSES, WIDTH, student=student, teachers={}, taps=taps, residents=residents)
    )
    assert isinstance(method, AdaptiveTeaching)
    return method


def make(
    names: Sequence[str] = tuple(ARCHS),
    *,
    optimizer: SGD | AdamW = HEAVY_BALL,
    workers: Workers = ALONE,
    norm: str = "batch",
    channels_last: bool = False,
    **settings: Any,
) -> AdaptiveTeacherLearner:
    return AdaptiveTeacherLearner(
        network("cnn_s", seed=1, norm=norm),
        build(names, **settings),
        optimizer=optimizer,
        compute=Compute(torch.device("cpu"), workers, channels_last=channels_last),
    )


def train(learner: AdaptiveTeacherLearner, num_steps: int, *, lr: float = 0.05) -> list[Any]:
    return [
        learner.step(batch_of(seed=step), NOTHING, progress=Progress(0, step, 1, num_steps), lr=lr)
        for step in range(num_steps)
    ]


def body(learner: AdaptiveTeacherLearner, k: int = 0) -> dict[str, Tensor]:
    """A teacher's weights and statistics without its classifier, copied."""
    state = learner.method.teachers[k].model.state_dict()
    return {name: value.clone() for name, value in state.items() if ".fc." not in name}


def work(rank: int) -> Tensor:
    """As one of two workers: train on one half of every batch, say where that led."""
    learner = make(workers=Workers(rank, 2), norm="none")
    freeze_statistics(learner)
    for step in range(3):
        batch = batch_of(2 * WIDTH, seed=step)
        rows = slice(rank * WIDTH, (rank + 1) * WIDTH)
        half = replace(batch, images=batch.images[rows], labels=batch.labels[rows])
        half = replace(half, indices=batch.indices[rows], views=batch.views[rows])
        learner.step(half, NOTHING, progress=Progress(0, step, 1, 3), lr=0.05)
    return torch.cat(shared(learner))


def freeze_statistics(learner: AdaptiveTeacherLearner) -> None:
    """All of the method in eval mode: else each worker's BatchNorm would see half a batch."""
    learner.method.parts.eval()


def shared(learner: AdaptiveTeacherLearner) -> list[Tensor]:
    """Whatever is used of what is trained: not the student's own last layer."""
    own = learner.student.network.classifier.parameters()
    unused = {id(parameter) for parameter in own}
    return [
        parameter.detach().flatten()
        for module in (learner.student, learner.method.parts)
        for parameter in module.parameters()
        if id(parameter) not in unused
    ]


def plain_network(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:  # noqa: ARG001
    """A user's own network, whose maps are named by module path: the last one is ``1``."""
    convolution = nn.Conv2d(in_channels, 12, 3, stride=2, padding=1)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(convolution, nn.ReLU(), pool, nn.Flatten(), nn.Linear(12, num_classes))
