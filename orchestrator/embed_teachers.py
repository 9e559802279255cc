"""Write an experiment's automatic teachers in half precision, with the accuracy they then have.

    python -m orchestrator.embed_teachers teachers_mini distill/weights

Trains them first where they are not on file. The accuracies, on the whole test split, go into
``accuracy.json`` beside the weights; a test holds the embedded teachers against it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from distill.config import AUTO, Experiment, Teacher
from distill.datasets import Data, load_data
from distill.loading import load_experiment
from orchestrator.display import Display
from orchestrator.progress import TrainingProgress
from orchestrator.session import ray_session
from orchestrator.teacher_training import auto_checkpoint, train_teachers


def embed(experiment: Experiment, folder: Path) -> dict[str, float]:
    """Train, round and file every automatic teacher; returns test accuracies by name."""
    data = load_data(experiment.data)
    with Display() as display, ray_session():
        progress = TrainingProgress(display)
        train_teachers(experiment, data, on_event=progress.on_event, tell=display.note)
    accuracies = {
        teacher.name: _embed(teacher, experiment, data, folder)
        for teacher in experiment.teachers
        if teacher.checkpoint == AUTO
    }
    (folder / "accuracy.json").write_text(json.dumps(accuracies, indent=2) + "\n")
    return accuracies


def _embed(teacher: Teacher, experiment: Experiment, data: Data, folder: Path) -> float:
    import torch

    from distill.engine import evaluate
    from distill.models import build_model
    from distill.models.base import Normalized
    from distill.models.checkpoints import load_weights, save_weights

    network = build_model(
        teacher.arch,
        num_classes=data.num_classes,
        in_channels=data.train.images.shape[1],
        image_size=data.train.images.shape[-1],
        options=teacher.options,
    )
    path = folder / f"{teacher.name}.safetensors"
    load_weights(network, auto_checkpoint(teacher, experiment, data))
    save_weights(network, path, dtype=torch.float16)
    load_weights(network, path)
    model = Normalized(network, mean=data.mean.tolist(), std=data.std.tolist())
    return evaluate(model, data.test, device=torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed an experiment's teachers.")
    parser.add_argument("experiment")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    accuracies = embed(load_experiment(options.experiment), options.folder)
    for name, accuracy in accuracies.items():
        print(f"{name}: {accuracy:.1%} on the test split")


if __name__ == "__main__":
    main()
