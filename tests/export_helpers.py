"""Runs to export, of every kind of learner, and networks that are hard to export."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.blueprint import Blueprint, TeacherOutline
from distill.cards import FILES, Card
from distill.config import Network
from distill.datasets import load_data
from distill.methods import config_class
from distill.models.base import feature_shapes
from orchestrator.export_plan import Export, Weights, plan_export
from orchestrator.exporting import export_run
from orchestrator.jobs import student_jobs
from orchestrator.preparation import file_accuracy
from orchestrator.students import EpochEvent, Event, StudentJob, train_students
from tests.helpers import prepare, two_teachers

SIZE = 20  # pixels; cnn_xs makes a last map of 3×3 of it, resnet8 one of 5×5
# One for each kind of learner and of inference model; records would have to be there before.
METHODS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd", "signals.source": "local"},
    "simkd": {"method": "simkd", "signals.source": "local"},
    "mmkd": {"method": {"name": "mmkd", "buffer_size": 64}, "signals.source": "local"},
    "atsc": {"method": "atsc"},
}


def job_of(file: Path, folder: Path, changes: dict[str, Any]) -> StudentJob:
    """A run of two epochs with two unlike teachers, said to be 50 % accurate."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment = two_teachers(file, folder, {"schedule.epochs": 2} | changes)
    data, teachers = load_data(experiment.data), prepare(experiment)
    for teacher in teachers:
        file_accuracy(teacher, data, 0.5)
    (job,) = student_jobs(experiment, teachers, data)
    return job


def train(job: StudentJob, *, until: int = 9) -> StudentJob:
    """Train, or be broken off after ``until`` epochs."""

    def on_event(event: Event) -> None:
        if isinstance(event, EpochEvent) and event.epoch == until:
            raise KeyboardInterrupt

    train_students([job], job.experiment.workers, storage=job.folder, on_event=on_event)
    return job


def forget_teachers(folder: Path) -> None:
    """Leave nothing of the teachers: neither weights nor records."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    shutil.rmtree(folder / "signals", ignore_errors=True)


def export(
    run: Path,
    output: Path | None = None,
    formats: Sequence[str] = tuple(FILES),
    *,
    weights: Weights = "last",
) -> tuple[Export, Card]:
    """Check and do an export."""
    plan = plan_export(run, formats=formats, weights=weights, output=output)
    return plan, export_run(plan)


def blueprint(arch: str = "cnn_xs", method: str = "ce", **student: Any) -> Blueprint:
    """Of a student of 20×20 colour images, and of a teacher ``t`` with maps of another size."""
    network = Network(arch=arch, **student)
    bare = Blueprint(
        num_classes=3,
        class_names=("cat", "dog", "naïve"),
        in_channels=3,
        image_size=SIZE,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        student=network,
        method=config_class(method)(),
        batch_size=8,
        teachers={},
    )
    if method == "ce":
        return bare
    teacher = Network(arch="cnn_xs")
    taps = feature_shapes(bare.build_network(teacher), 3, SIZE)
    own = feature_shapes(bare.build_network(network), 3, SIZE)
    (specs,) = bare.method.needs({"t": taps}, own).values()
    outline = TeacherOutline(
        network=teacher,
        taps={tap: shape for tap, shape in taps.items() if tap != "logits"},
        signals={str(spec): taps[spec.tap] for spec in specs},
        classifier=(3, taps["pooled"][0]),
        classifier_bias=True,
    )
    return bare.model_copy(update={"teachers": {"t": outline}})


def snippets(card: str) -> dict[str, str]:
    """The code in a card, by the file that it loads."""
    sections = re.findall(
        r"^## (model\.\w+)\n.*?```python\n(.*?)```", card, re.DOTALL | re.MULTILINE
    )
    return dict(sections)


class Branching(nn.Module):
    """Its path depends on what the images show: nothing that can be traced."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(1, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        pooled = images.mean((1, 2, 3), keepdim=False)[:, None]
        return self.fc(pooled if float(pooled.sum()) > 0 else -pooled)


def branching_network(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:  # noqa: ARG001
    return Branching(num_classes)


def nan_network(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Its logits are NaN."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
    with torch.no_grad():
        network[1].weight.fill_(float("nan"))
    return network
