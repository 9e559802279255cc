"""The benchmark's job as torchdistill's users write it: a data set, a teacher, a configuration.

Only torchdistill's public interface is used; none of its code is here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from benchmarks.workbench import BATCH_SIZE, Bench
from distill.config import SGD
from distill.methods.kd import Config as KDConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

PADDING = 4  # crop_flip's own default
TEMPERATURE = KDConfig().temperature


@final
class Pictures:
    """A torch dataset of PIL images under torchvision's transforms, as torchdistill's users write.

    Items are (image [1, h, w], label).
    """

    def __init__(self, bench: Bench) -> None:
        from torchvision import transforms

        split = bench.data.train
        self.images, self.labels = split.gather(np.arange(len(split)))
        size = self.images.shape[-1]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(bench.data.mean.tolist(), bench.data.std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index, 0])), int(self.labels[index])


def logits_module(network: nn.Module) -> nn.Module:
    """A network of ours that takes normalised images and returns logits alone."""
    from torch import nn

    @final
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images).logits

    return Logits()


def ensemble(members: Sequence[nn.Module]) -> nn.Module:
    """One teacher that runs several: torchdistill's box takes one and hooks what is inside."""
    from torch import nn

    @final
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(members)

        def forward(self, images: Tensor) -> list[Tensor]:
            return [member(images) for member in self.members]

    return Ensemble().eval()


def box_config(num_teachers: int, *, optimizer: dict[str, Any]) -> dict[str, Any]:
    """torchdistill's configuration of the job."""
    from torch.utils.data import RandomSampler

    paths = [f"members.{index}" for index in range(num_teachers)]
    logits = {"student_module_path": ".", "student_module_io": "output"}
    divergences = {
        f"kd{index}": {
            "criterion": {
                "key": "KDLoss",
                "kwargs": {
                    **logits,
                    "teacher_module_path": path,
                    "teacher_module_io": "output",
                    "temperature": TEMPERATURE,
                    "alpha": None,  # the divergence alone, without its own cross-entropy and τ²
                    "beta": 1.0,
                },
            },
            "weight": TEMPERATURE**2 / num_teachers,
        }
        for index, path in enumerate(paths)
    }
    cross_entropy = {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
        "criterion_wrapper": {
            "key": "SimpleLossWrapper",
            "kwargs": {
                "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
                "target": {"uses_label": True},
            },
        },
        "weight": 1.0,
    }
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": BATCH_SIZE, "num_workers": 1, "drop_last": True},
        },
        "teacher": {
            "forward_proc": "forward_batch_only",
            "forward_hook": {"output": paths},
            "requires_grad": False,
        },
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"ce": cross_entropy, **divergences}},
        },
        "optimizer": {"key": "SGD", "kwargs": optimizer},
    }


def make_box(bench: Bench, student: nn.Module) -> Any:
    """torchdistill's DistillationBox for this bench."""
    import torch
    from torchdistill.core.distillation import get_distillation_box

    teachers = [logits_module(s.recipe.build().network) for s in bench.servings]
    settings = bench.experiment.optimizer
    assert isinstance(settings, SGD)
    optimizer = settings.model_dump(exclude={"name", "clip_norm"})
    return get_distillation_box(
        ensemble(teachers),
        logits_module(student),
        {"train": Pictures(bench)},
        box_config(len(teachers), optimizer=optimizer),
        torch.device("cpu"),
        None,
        False,
        1.0,
    )


def their_epoch(box: Any) -> float:
    """Seconds of one epoch through the box, stage by stage as its examples do."""
    began = time.perf_counter()
    box.pre_epoch_process(epoch=0)
    for images, labels, extra in box.train_data_loader:
        loss = box.forward_process(images, targets=labels, supp_dict=extra)
        box.post_forward_process(loss=loss)
        loss.item()
    box.post_epoch_process()
    return time.perf_counter() - began
