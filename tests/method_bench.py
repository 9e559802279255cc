"""A bench for methods: a tiny student and three unlike teachers, all in float64, and their losses.

Imported by tests; B samples, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distill.methods import Method, MethodConfig, config_class, method_names
from distill.reductions import reduce, reduced_shape
from distill.signals import (
    LOGITS,
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    TeacherSignals,
)

B, C = 6, 5
STUDENT = {"stem": (4, 8, 8), "stage1": (4, 8, 8), "stage2": (6, 4, 4), "stage3": (8, 4, 4)}
# Another width each, other sizes (larger and smaller than the student's), another depth.
TEACHERS = {
    "a": {"stem": (4, 8, 8), "stage1": (6, 8, 8), "stage2": (8, 8, 8), "stage3": (10, 4, 4)},
    "b.1": {
        f"stage{i}": size for i, size in enumerate([(5, 8, 8), (7, 4, 4), (9, 2, 2), (9, 2, 2)], 1)
    },
    "c": {"stage1": (4, 16, 16), "stage2": (4, 8, 8), "stage3": (12, 8, 8)},
}
MIDDLE = Progress(epoch=6, step=0, num_epochs=8, steps_per_epoch=1)
NAMES = [n for n in method_names() if n != "ce" and config_class(n).learner == "standard"]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network_output(
    maps: Mapping[str, tuple[int, ...]], *, seed: int, batch: int = B
) -> ModelOutput:
    """Features as after a ReLU; ``pooled`` is the last map's mean."""
    features = {
        tap: draw(batch, *shape, seed=100 * seed + place).relu() + 0.01
        for place, (tap, shape) in enumerate(maps.items())
    }
    features["pooled"] = list(features.values())[-1].mean((2, 3))
    return ModelOutput(draw(batch, C, seed=100 * seed + 99) * 2, features)


@dataclass(frozen=True)
class Bench:
    """One batch: the student's output, the teachers' whole outputs and classifiers, labels."""

    student: ModelOutput
    teachers: Mapping[str, ModelOutput]
    labels: Tensor
    classifiers: Mapping[str, tuple[Tensor, Tensor | None]]

    @classmethod
    def standard(cls, names: Sequence[str] = tuple(TEACHERS)) -> Bench:
        places = {name: place for place, name in enumerate(TEACHERS, 1)}
        teachers = {n: network_output(TEACHERS[n], seed=places[n]) for n in names}
        classifiers = {
            n: (draw(C, t.features["pooled"].shape[1], seed=places[n]), draw(C, seed=places[n]))
            for n, t in teachers.items()
        }
        labels = torch.arange(B) % C
        return cls(network_output(STUDENT, seed=0), teachers, labels, classifiers)

    def order(self, names: Sequence[str]) -> Bench:
        """The same batch with its teachers in another order."""
        return replace(self, teachers={n: self.teachers[n] for n in names})

    def rows(self, rows: slice | Tensor) -> Bench:
        """Some of the batch's samples."""
        teachers = {name: _rows(output, rows) for name, output in self.teachers.items()}
        return replace(
            self, student=_rows(self.student, rows), teachers=teachers, labels=self.labels[rows]
        )

    def shapes(self, config: MethodConfig) -> SignalShapes:
        taps = {name: _shapes(output) for name, output in self.teachers.items()}
        student = _shapes(self.student)
        return SignalShapes(
            num_classes=self.student.logits.shape[1],
            batch_size=len(self.labels),
            student=student,
            teachers={
                name: {spec: reduced_shape(taps[name], spec) for spec in specs}
                for name, specs in config.needs(taps, student).items()
            },
            taps=taps,
            classifiers=self.classifiers,
        )

    def build(self, config: MethodConfig, *, seed: int = 0) -> Method:
        torch.manual_seed(seed)
        method = config.build(self.shapes(config))
        method.parts.double()
        return method

    def signals(self, config: MethodConfig) -> TeacherSignals:
        needs = config.needs(
            {name: _shapes(output) for name, output in self.teachers.items()},
            _shapes(self.student),
        )
        return TeacherSignals(
            {
                n: {s: reduce(self.teachers[n], s) for s in needs[n]}
                for n in self.teachers
                if n in needs
            }
        )

    def loss(
        self, config: MethodConfig, method: Method | None = None, *, progress: Progress = MIDDLE
    ) -> LossReport:
        method = method or self.build(config)
        return method.loss(self.student, self.signals(config), self.labels, progress=progress)


def configured(name: str, num_teachers: int = 3, **settings: Any) -> MethodConfig:
    """A method with its defaults; GPAC has none for its assignment."""
    if name == "gpac" and not {"assignment", "probes"} & set(settings):
        groups = [f"s{stage}:t{(stage - 1) % num_teachers}" for stage in (1, 2, 3)]
        settings["assignment"] = ",".join(groups)
    return config_class(name)(**settings)


def permuted(state: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """A method's state for teachers in another order: place i holds what was teacher order[i]'s."""
    moved: dict[str, Tensor] = {}
    for key, value in state.items():
        number = re.search(r"(?<![^.])\d+(?=\.)", key)
        if number:  # of a list with one entry a teacher
            place = order.index(int(number[0]))
            key = f"{key[: number.start()]}{place}{key[number.end() :]}"
        elif key in ("gate.theta", "scales.scales"):
            value = value[list(order)]
        moved[key] = value
    return moved


def leaves(output: ModelOutput) -> tuple[ModelOutput, list[Tensor]]:
    """The same output, its logits and features ready for gradients."""
    copy = ModelOutput(
        output.logits.clone().requires_grad_(),
        {tap: value.clone().requires_grad_() for tap, value in output.features.items()},
    )
    return copy, [copy.logits, *copy.features.values()]


def _shapes(output: ModelOutput) -> dict[str, tuple[int, ...]]:
    features = {tap: tuple(value.shape[1:]) for tap, value in output.features.items()}
    return {**features, LOGITS: tuple(output.logits.shape[1:])}


def _rows(output: ModelOutput, rows: slice | Tensor) -> ModelOutput:
    features = {tap: value[rows] for tap, value in output.features.items()}
    return ModelOutput(output.logits[rows], features)
