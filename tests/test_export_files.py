"""Files of networks that no run has trained, what is refused of them, and how they are timed."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.cards import FILES
from distill.export import (
    ExportError,
    answer,
    largest_difference,
    latencies_ms,
    load_model,
    ready,
    write,
)
from tests.export_helpers import SIZE, blueprint


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        # The student's map of 5×5 is pooled to the teacher's of 3×3, which does not divide it.
        {"arch": "resnet8", "method": "simkd"},
        {"arch": "torchvision/resnet18", "taps": ("layer3",)},
        {"arch": "torchvision/mobilenet_v3_small"},  # the student of README and of the tutorial
        {"arch": "tests.residents:plain_network", "taps": ("1",), "method": "simkd"},
    ],
    ids=lambda made: made["arch"],
)
def test_any_network_is_the_same_in_every_format(made: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = blueprint(**made)
    student, method = plan.build()
    for parameter in method.parts.parameters():  # classifiers come from a checkpoint
        torch.nn.init.normal_(parameter, std=0.1)
    model = ready(method.inference_model(student))
    images = np.random.default_rng(0).integers(0, 256, (9, 3, SIZE, SIZE), dtype=np.uint8)
    reference = answer(model, images)
    assert reference.std(0).min() > 0
    for form in FILES:
        path = write(model, plan, tmp_path, form=form)
        assert largest_difference(path, reference, images, form=form) < 1e-4


def test_a_file_that_disagrees_is_refused(tmp_path: Path) -> None:
    plan = blueprint()
    model = ready(plan.build_student())
    path = write(model, plan, tmp_path, form="safetensors")
    images = np.zeros((4, 3, SIZE, SIZE), np.uint8)
    reference = answer(model, images)
    assert largest_difference(path, reference, images, form="safetensors") < 1e-6
    off = reference.copy()
    off[3, 2] += 0.01
    for wrong in (off, np.full_like(reference, np.nan)):
        with pytest.raises(ExportError, match=r"by up to .* not kept"):
            largest_difference(path, wrong, images, form="safetensors")


def test_weights_of_another_network_are_not_loaded(tmp_path: Path) -> None:
    small, large = blueprint("cnn_xs"), blueprint("cnn_s")
    write(ready(small.build_student()), small, tmp_path, form="safetensors")
    assert stat.S_IMODE((tmp_path / FILES["safetensors"]).stat().st_mode) & 0o040
    (tmp_path / "config.json").write_text(large.model_dump_json())
    with pytest.raises(
        ValueError, match=r"model.safetensors' does not fit its config.json: .*stem"
    ):
        load_model(tmp_path)
    (tmp_path / FILES["safetensors"]).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"model.safetensors' does not fit its config.json"):
        load_model(tmp_path)


def test_latencies_are_medians_of_the_passes_asked_for_on_one_thread() -> None:
    class Counted(nn.Module):
        calls: ClassVar[list[int]] = []

        def forward(self, images: Tensor) -> Tensor:
            self.calls.append(torch.get_num_threads())
            return images

    class Busy(nn.Module):
        def forward(self, _images: Tensor) -> Tensor:
            return torch.ones(512, 512) @ torch.ones(512, 512)

    image, before = np.zeros((1, 1, 8, 8), np.uint8), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        times = latencies_ms({"idle": Counted(), "busy": Busy()}, image, num_passes=20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert Counted.calls == [1] * (20 + 5)  # the first pass of each of five turns is not timed
    assert 0 < times["idle"] < times["busy"]
