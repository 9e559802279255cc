"""The teachers inside the package are what ``accuracy.json`` says they are."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from distill.config import EMBEDDED
from distill.datasets import DataConfig, load_data
from distill.engine import evaluate
from distill.loading import load_experiment
from distill.models import build_model
from distill.models.base import Normalized
from distill.models.checkpoints import load_weights

WEIGHTS = Path(str(resources.files("distill") / "weights"))
CLAIMED: dict[str, float] = json.loads((WEIGHTS / "accuracy.json").read_text())
ONE_IMAGE = 1 / 1000  # another machine's rounding may turn an image that lies on the border


@pytest.mark.parametrize("arch", sorted(CLAIMED))
def test_an_embedded_teacher_has_the_accuracy_that_is_claimed(arch: str) -> None:
    data = load_data(DataConfig(name="fashion_mnist_mini"))
    network = build_model(arch, num_classes=10, in_channels=1, image_size=28)
    load_weights(network, WEIGHTS / f"{arch}.safetensors")
    model = Normalized(network, mean=data.mean.tolist(), std=data.std.tolist())
    accuracy = evaluate(model, data.test, device=torch.device("cpu"))
    assert accuracy == pytest.approx(CLAIMED[arch], abs=ONE_IMAGE)
    assert accuracy > 0.85


def test_the_demo_is_taught_by_every_embedded_teacher() -> None:
    teachers = load_experiment("demo").teachers
    assert {t.checkpoint for t in teachers} == {EMBEDDED + arch for arch in CLAIMED}
    assert len({t.arch for t in teachers}) == len(teachers) >= 3


def test_the_experiment_that_made_them_is_shipped() -> None:
    made = load_experiment("teachers_mini")
    assert {t.arch for t in made.teachers} == set(CLAIMED)
    assert all(t.checkpoint == "auto" for t in made.teachers)
