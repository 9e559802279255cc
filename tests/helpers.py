"""Small factories: tiny real data, experiments on it, students and teachers ready to use."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distill.batches import BatchPlan
from distill.config import Experiment
from distill.datasets import Data, DataConfig, load_data
from distill.engine import Fit
from distill.learners import LEARNERS, Compute, Learner
from distill.loading import apply_override, validate
from distill.models import build_model
from distill.models.base import Normalized, feature_shapes
from distill.models.checkpoints import save_weights
from distill.reductions import reduced_shape
from distill.signals import LossReport, SignalShapes, SignalSpec
from distill.weight_tables import WeightTable
from orchestrator.missing import missing_jobs
from orchestrator.preparation import PreparedTeacher, prepare_teachers
from orchestrator.recording import Serving
from orchestrator.runs import RunFolder
from orchestrator.teachers import InputPlan, RecordedSignal, Teacher

CPU = torch.device("cpu")


def write_fashion(file: Path, *, num_train: int, num_test: int) -> Path:
    """Every other pixel of the first images of ``fashion_mnist_mini``, as an .npz."""
    data = load_data(DataConfig(name="fashion_mnist_mini", validation=0))
    arrays: dict[str, np.ndarray] = {}
    for part, split, count in (("train", data.train, num_train), ("test", data.test, num_test)):
        images, labels = split.gather(np.arange(count))
        arrays |= {f"{part}_images": images[:, 0, ::2, ::2], f"{part}_labels": labels}
    np.savez(file, **arrays)
    return file


def write_noise(file: Path, *, num_train: int, num_classes: int = 4, size: int = 8) -> Path:
    """Random images with random labels: for what does not depend on what images show."""
    draw = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", num_train), ("test", 40)):
        arrays[f"{part}_images"] = draw.integers(0, 256, (count, size, size), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % num_classes
    np.savez(file, **arrays)
    return file


def tiny(file: Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """An experiment of two short epochs on the arrays in ``file``; ``changes`` are overrides."""
    raw: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "arrays", "file": str(file), "validation": 0.1},
        "views": {"kind": "crop_flip", "padding": 1, "flip": True},
        "student": {"arch": "cnn_xs"},
        "method": "ce",
        "optimizer": {"lr": 0.05},
        "schedule": {"epochs": 2, "batch_size": 32},
        "workers": {"count": 0},
    }
    for path, value in (changes or {}).items():
        apply_override(raw, path, copy.deepcopy(value))
    return validate(raw)


def network_for(data: Data, arch: str, **options: Any) -> Normalized:
    """A fresh network behind the data's own normalisation."""
    network = build_model(
        arch,
        num_classes=data.num_classes,
        in_channels=data.train.images.shape[1],
        image_size=data.train.images.shape[-1],
        options=options,
    )
    return Normalized(network, mean=data.mean.tolist(), std=data.std.tolist())


def make_fit(experiment: Experiment, *, seed: int = 0) -> tuple[Fit, Learner]:
    """What ``engine.fit`` takes, for a method that needs no teachers' shapes."""
    data = load_data(experiment.data)
    torch.manual_seed(seed)
    student = network_for(data, experiment.student.arch, **experiment.student.options)
    shapes = SignalShapes(
        num_classes=data.num_classes,
        batch_size=experiment.schedule.batch_size,
        student=feature_shapes(student, *data.train.images.shape[1:3]),
        teachers={},
    )
    compute = Compute(
        CPU,
        bfloat16=experiment.workers.precision == "bfloat16",
        channels_last=experiment.workers.channels_last,
    )
    learner = LEARNERS[experiment.method.learner](
        student, experiment.method.build(shapes), optimizer=experiment.optimizer, compute=compute
    )
    plan = BatchPlan(
        split=data.train,
        views=experiment.views,
        batch_size=experiment.schedule.batch_size,
        num_passes=experiment.num_passes,
        seed=seed,
        plan_seed=experiment.signals.plan_seed,
    )
    task = Fit(plan, experiment.schedule, experiment.optimizer.lr, data.validation, CPU)
    return task, learner


@dataclass
class Diary:
    """An observer that remembers every epoch's row, its learner's state, and each step's report."""

    rows: list[Mapping[str, float]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[int, LossReport] = field(default_factory=dict)
    weights: list[Mapping[str, WeightTable]] = field(default_factory=list)
    rates: dict[int, float] = field(default_factory=dict)

    def on_step(self, step: int, report: LossReport, *, lr: float) -> None:
        self.steps[step], self.rates[step] = report, lr

    def on_weights(self, epoch: int, tables: Mapping[str, WeightTable]) -> None:
        assert epoch >= len(self.weights)
        self.weights.append(tables)

    def on_epoch(self, epoch: int, row: Mapping[str, float], learner: Learner) -> None:
        assert epoch >= len(self.rows)
        self.rows.append(row)
        self.states.append(copy.deepcopy(learner.state_dict()))

    def losses(self) -> list[float]:
        return [row["loss/total"] for row in self.rows]


def filed_weights(run: Path, name: str = "last") -> torch.Tensor:
    """All weights and statistics of the student in a run folder's checkpoint, as one vector."""
    state = torch.load(RunFolder(run).checkpoint(name), weights_only=True)
    return torch.cat([v.double().flatten() for v in state["learner"]["student"].values()])


def flat_weights(module: nn.Module) -> torch.Tensor:
    """All parameters as one vector."""
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def dropout_network(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """A user's own network that draws random numbers while it is trained."""
    pixels = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(pixels, num_classes))


def write_teacher(file: Path, experiment: Experiment, arch: str, *, seed: int) -> Path:
    """Untrained weights, with statistics in BatchNorm as if trained, as a checkpoint."""
    data = load_data(experiment.data)
    torch.manual_seed(seed)
    model = network_for(data, arch)
    with torch.no_grad():
        model(torch.from_numpy(data.train.gather(np.arange(64))[0]))
    save_weights(model, file)
    return file


def two_teachers(file: Path, folder: Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """``tiny`` with method kd and two teachers, ``a`` and ``b``, ``b`` with its own normalisation.

    Three passes are recorded below ``folder``, where the teachers' weights lie too.
    """
    own = {"normalization": {"mean": [0.5], "std": [0.25]}}
    teachers = [
        {"name": "a", "arch": "cnn_xs", "checkpoint": str(folder / "a.safetensors")},
        {"name": "b", "arch": "resnet8", "checkpoint": str(folder / "b.safetensors")} | own,
    ]
    experiment = tiny(
        file,
        {
            "teachers": [teacher | {"cpus": 0.5} for teacher in teachers],
            "method": "kd",
            "signals": {"root": str(folder / "signals"), "passes": 3},
            "schedule.epochs": 3,
            "output.root": str(folder / "runs"),
        }
        | dict(changes or {}),
    )
    for seed, teacher in enumerate(experiment.teachers):
        if not Path(teacher.checkpoint).exists():
            write_teacher(Path(teacher.checkpoint), experiment, teacher.arch, seed=seed)
    return experiment


def prepare(experiment: Experiment) -> tuple[PreparedTeacher, ...]:
    """The experiment's teachers from their files."""
    files = {teacher.name: Path(teacher.checkpoint) for teacher in experiment.teachers}
    return prepare_teachers(experiment, load_data(experiment.data), files)


def asked_for(serving: Serving, *specs: str, codec: str = "float16") -> Serving:
    """The same teacher, with other signals to record."""
    recipe = serving.recipe
    shapes = feature_shapes(recipe.build(), recipe.in_channels, recipe.image_size)
    signals = tuple(
        RecordedSignal(spec, codec, reduced_shape(shapes, spec))
        for spec in map(SignalSpec.parse, specs)
    )
    return replace(serving, recording=replace(serving.recording, signals=signals))


def record_here(serving: Serving, plan: InputPlan, passes: Sequence[int]) -> int:
    """Record what is missing in this process, without actors; returns how many parts that was."""
    jobs, _ = missing_jobs(serving.recording, passes)
    teacher = Teacher(serving.recipe, plan)
    for job in jobs:
        teacher.record(job)
    return len(jobs)


def files_below(folder: Path, pattern: str) -> dict[str, bytes]:
    """The content of every matching file, by its path below ``folder``."""
    files = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
