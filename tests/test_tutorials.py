"""The phone's tutorial, from a folder of photos to the file, small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import yaml

from distill.datasets import load_data
from distill.loading import load_experiment
from distill.models.checkpoints import save_weights
from orchestrator.export_plan import plan_export
from orchestrator.exporting import export_run
from orchestrator.jobs import student_jobs
from orchestrator.preflight import check
from orchestrator.students import TeacherFacts, train_students
from tests.helpers import prepare
from tests.networks import build
from tests.tutorial_world import CLASSES, phone_yaml, write_photos

SIZE = 32
TEACHERS = (("squeezenet1_1", 3), ("squeezenet1_1", 3), ("resnet18", 5))  # small ones, and classes


def phone(folder: Path, photos: Path) -> list[str]:
    """The page's experiment in ``folder``, and what makes it small; teachers have drawn weights."""
    (folder / "phone.yaml").write_text(phone_yaml())
    overrides = [
        f"data.root={photos}",
        f"data.image_size={SIZE}",
        "views.padding=2",
        "student.arch=torchvision/squeezenet1_1",
        "schedule={epochs: 1, batch_size: 8}",
        "seeds=[0]",
        "signals.source=local",
        "workers.count=0",
        f"output.root={folder / 'runs'}",
    ]
    for index, (name, num_classes) in enumerate(TEACHERS):
        torch.manual_seed(index)
        file = folder / f"{index}.safetensors"
        arch = f"torchvision/{name}"
        save_weights(build(arch, num_classes=num_classes, image_size=SIZE), file)
        changes = {"name": f"t{index}", "arch": arch, "checkpoint": file}
        overrides += [f"teachers[{index}].{key}={value}" for key, value in changes.items()]
    return overrides


def test_the_teachers_of_the_page_can_be_built() -> None:
    page = yaml.safe_load(phone_yaml())
    size = page["data"]["image_size"]
    widths = [
        build(
            teacher["arch"], num_classes=len(teacher.get("classes", CLASSES)), image_size=size
        ).classifier.out_features
        for teacher in page["teachers"]
    ]
    assert widths == [3, 3, 5]


def test_three_models_become_one_for_a_phone(tmp_path: Path) -> None:
    overrides = phone(tmp_path, write_photos(tmp_path / "photos"))
    experiment = load_experiment(str(tmp_path / "phone.yaml"), overrides)
    check(experiment, num_cpus=2)
    prepared = prepare(experiment)
    assert [teacher.serving.recipe.num_classes for teacher in prepared] == [3, 3, 3]
    assert {teacher.serving.recipe.mean for teacher in prepared} == {(0.485, 0.456, 0.406)}
    *_, job = student_jobs(
        experiment, prepared, load_data(experiment.data), facts_of=lambda *_: TeacherFacts(0.5, 1)
    )
    assert job.method.name == "kd"
    train_students([job], experiment.workers, storage=tmp_path, on_event=lambda _: None)

    export_run(plan_export(job.folder, formats=["onnx"], weights="best", output=tmp_path / "phone"))
    session = onnxruntime.InferenceSession(str(tmp_path / "phone" / "model.onnx"))
    images = np.zeros((2, 3, SIZE, SIZE), np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    assert logits.shape == (2, 3)
    card = json.loads((tmp_path / "phone" / "card.json").read_text())
    assert card["interface"]["class_names"] == list(CLASSES)
