"""A distillation job to measure: data, teachers with drawn weights, a student, their records.

Only speed is measured, so the teachers are not trained; architectures, shapes and the code that
runs are the product's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from distill.batches import BatchPlan
from distill.config import Experiment
from distill.datasets import Data, load_data
from distill.datasets.splits import Split
from distill.loading import validate
from distill.methods import Method, MethodConfig
from distill.methods.kd import Config as KDConfig
from distill.signals import (
    LOGITS,
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    SignalSpec,
    TeacherSignals,
)
from orchestrator.codecs import make_codec
from orchestrator.preparation import PreparedTeacher, prepare_teachers
from orchestrator.recording import Recording, RecordingReport, Serving
from orchestrator.store import PartId
from orchestrator.students import StudentJob

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


HINT = SignalSpec("stage3")
STUDENT_HINT = "stage2"  # of the CNN family: the tap whose maps are as large as a ResNet's last
BATCH_SIZE = 64
# Half of the embedded images: an epoch of a second or so.
QUICK_DATA = {"name": "fashion_mnist_mini", "validation": 0.49}
FULL_DATA = {"name": "fashion_mnist"}


@final
class HintConfig(MethodConfig):
    """KD, and FitNet's hint from each teacher's last stage: a job that reads whole maps."""

    def needs(
        self,
        teachers: Sequence[str],
        student_taps: Sequence[str],  # noqa: ARG002
    ) -> Mapping[str, frozenset[SignalSpec]]:
        return {teacher: frozenset({SignalSpec(LOGITS), HINT}) for teacher in teachers}

    def build(self, shapes: SignalShapes) -> Method:
        return _Hints(shapes)


@final
class _Hints(Method):
    def __init__(self, shapes: SignalShapes) -> None:
        from torch import nn

        self.kd = KDConfig().build(shapes)
        student = shapes.student[STUDENT_HINT][0]
        self.parts = nn.ModuleDict(
            {name: nn.Conv2d(student, specs[HINT][0], 1) for name, specs in shapes.teachers.items()}
        )

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        from torch.nn import functional as F

        terms = dict(self.kd.loss(student, teachers, labels, progress=progress).terms)
        for name, regressor in self.parts.items():
            hint = regressor(student.features[STUDENT_HINT])
            terms[f"hint/{name}"] = F.mse_loss(hint, teachers.of(name, HINT))
        return LossReport(terms)

    def inference_model(self, student: Any) -> Any:
        return student


@final
@dataclass(frozen=True, slots=True)
class Bench:
    """An experiment whose teachers are loaded and whose records have a place."""

    experiment: Experiment
    data: Data
    teachers: tuple[PreparedTeacher, ...]
    num_samples: int | None = None  # of an epoch: the first ones; default: all

    @property
    def servings(self) -> tuple[Serving, ...]:
        return tuple(teacher.serving for teacher in self.teachers)

    @property
    def recordings(self) -> tuple[Recording, ...]:
        return tuple(serving.recording for serving in self.servings)

    def first(self, num_teachers: int) -> Bench:
        """The same bench with its first teachers alone."""
        return replace(self, teachers=self.teachers[:num_teachers])

    def shortened(self, num_samples: int | None) -> Bench:
        """The same bench with epochs of the first samples alone."""
        return replace(self, num_samples=num_samples)

    def job(self, method: MethodConfig) -> StudentJob:
        """A run of one method over these teachers."""
        return StudentJob(
            experiment=self.experiment,
            method=method,
            digest="",
            seed=0,
            folder=Path(),
            recordings=() if method.resident else self.recordings,
            recipes=tuple(serving.recipe for serving in self.servings),
            facts={},
            signal_bytes=0,
            title=method.name,
            taps={teacher.name: teacher.taps for teacher in self.teachers},
            classifiers={
                teacher.name: teacher.classifier
                for teacher in self.teachers
                if teacher.classifier is not None
            },
        )


def make_bench(
    folder: Path,
    data: Mapping[str, Any],
    archs: Sequence[str],
    method: MethodConfig,
    *,
    student: str = "cnn_s",
    num_actors: int = 1,
) -> Bench:
    """Teachers of these architectures on some data; everything that is written goes to ``folder``.

    An architecture that is named twice is two teachers with weights of their own.
    """
    names = [f"{arch}-{index}" for index, arch in enumerate(archs)]
    experiment = validate(
        {
            "name": "benchmark",
            "data": {"validation": 0, "cache_dir": str(folder), **data},
            "teachers": [
                # A fraction of a CPU, so that all actors fit a small machine side by side.
                {"name": name, "arch": arch, "actors": num_actors, "cpus": 0.25}
                for name, arch in zip(names, archs, strict=True)
            ],
            "student": {"arch": student},
            "method": method,
            "schedule": {"epochs": 1, "batch_size": BATCH_SIZE},
            "signals": {"root": str(folder / "signals")},
        }
    )
    loaded = load_data(experiment.data)
    checkpoints = {
        name: _draw_weights(folder / f"{name}.safetensors", arch, loaded, seed=seed)
        for seed, (name, arch) in enumerate(zip(names, archs, strict=True))
    }
    return Bench(experiment, loaded, prepare_teachers(experiment, loaded, checkpoints))


def _draw_weights(file: Path, arch: str, data: Data, *, seed: int) -> Path:
    """Fresh weights, with BatchNorm's statistics of real images: finite at any depth."""
    import torch

    from distill.models import build_model
    from distill.models.base import Normalized
    from distill.models.checkpoints import save_weights

    torch.manual_seed(seed)
    channels, size = data.train.images.shape[1], data.train.images.shape[-1]
    network = build_model(arch, num_classes=data.num_classes, in_channels=channels, image_size=size)
    model = Normalized(network, mean=data.mean.tolist(), std=data.std.tolist())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what is seen
    with torch.no_grad():
        model(torch.from_numpy(data.train.gather(np.arange(min(64, len(data.train))))[0]))
    save_weights(model, file)
    return file


def epoch_plan(bench: Bench) -> BatchPlan:
    """The epoch that is measured."""
    split = bench.data.train
    return BatchPlan(
        split=split if bench.num_samples is None else first_samples(split, bench.num_samples),
        views=bench.experiment.views,
        batch_size=BATCH_SIZE,
        num_passes=1,
        seed=0,
        plan_seed=bench.experiment.signals.plan_seed,
    )


def first_samples(split: Split, count: int) -> Split:
    """The first samples of a split, or none."""
    return Split(split.images, split.labels[:count], split.rows[:count], f"first {count}")


def fill(bench: Bench, *, pass_index: int = 0) -> None:
    """Write a pass of drawn numbers where teachers' answers would be: a reader cannot tell."""
    draw = np.random.default_rng(0)
    for recording in bench.recordings:
        for signal in recording.signals:
            column = recording.store.column(signal.spec, make_codec(signal.codec, signal.shape))
            for index in range(recording.identity.num_parts):
                num_rows = len(recording.identity.rows_of(index))
                values = draw.standard_normal((num_rows, *signal.shape), dtype=np.float32)
                rows, error = column.encode(values)
                column.write(PartId(pass_index, index), rows, error=error)


@final
class Silent:
    """A recording's observer that shows nothing."""

    def on_wait(self, holder: str) -> None:
        raise RuntimeError(f"the benchmark's own records are locked by {holder}")

    def on_start(self, report: RecordingReport) -> None: ...

    def on_stall(self, teachers: Sequence[str]) -> None:
        raise RuntimeError(f"this machine has no room for {', '.join(teachers)}")

    def on_restart(self, teacher: str, process: str) -> None:
        raise RuntimeError(f"{process} of {teacher} died: its time says nothing")

    def on_part(self, report: RecordingReport) -> None: ...
