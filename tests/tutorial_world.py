"""What the tutorials' and own pages' examples find where they are tried: photos, weights, code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from distill.datasets import DataConfig, load_data
from distill.models.checkpoints import save_weights
from tests.doc_files import DOCS
from tests.networks import build

TUTORIALS = DOCS / "tutorials"
CLASSES = ("bus", "car", "tram")
SIZE = 32  # pixels of the phone's images, where it is made small
SMALL_TEACHERS = (("squeezenet1_1", 3), ("squeezenet1_1", 3), ("resnet18", 5))  # and classes
MYCODE = {
    "__init__.py": "",
    "data.py": """
import numpy as np

def photos(folder, size=64):
    images, labels = np.zeros((20, size, size, 3), np.uint8), np.arange(20) % 10
    return {f"{part}_{kind}": value for part in ("train", "test")
            for kind, value in (("images", images), ("labels", labels))}
""",
}


def write_photos(root: Path) -> Path:
    """A few real images of three classes, as files in folders."""
    data = load_data(DataConfig(name="fashion_mnist_mini", classes=(1, 7, 8), validation=0))
    for part, split, count in (("train", data.train, 8), ("test", data.test, 3)):
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            images, _ = split.gather(np.flatnonzero(split.labels == label)[:count])
            for index, image in enumerate(images):
                Image.fromarray(image[0]).save(root / part / name / f"{index}.png")
    return root


def phone_yaml() -> str:
    """The experiment of the page."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (TUTORIALS / "phone.md").read_text(), re.DOTALL)
    return text


def phone(folder: Path) -> list[str]:
    """The page's experiment and photos in ``folder``, and what makes it small.

    Its teachers have drawn weights.
    """
    write_photos(folder / "photos")
    (folder / "phone.yaml").write_text(phone_yaml())
    overrides = [
        f"data.image_size={SIZE}",
        "views.padding=2",
        "student.arch=torchvision/squeezenet1_1",
        "schedule={epochs: 1, batch_size: 8}",
        "seeds=[0]",
        "workers.count=0",
    ]
    for index, (name, num_classes) in enumerate(SMALL_TEACHERS):
        torch.manual_seed(index)
        file = folder / f"{index}.safetensors"
        arch = f"torchvision/{name}"
        save_weights(build(arch, num_classes=num_classes, image_size=SIZE), file)
        changes = {"name": f"t{index}", "arch": arch, "checkpoint": file.name, "cpus": 0.5}
        overrides += [f"teachers[{index}].{key}={value}" for key, value in changes.items()]
    return overrides


def furnish(folder: Path) -> None:
    """Everything that the examples name; the weights' files are whole, and hold nothing of use."""
    write_photos(folder / "photos")
    (folder / "phone.yaml").write_text(phone_yaml())
    for name in ("resnet50.pt", "efficientnet_b0.pt", "regnet_y_400mf.pt", "wide.safetensors"):
        save_file({"nothing": np.zeros(1, np.float32)}, folder / name)
    (folder / "mycode").mkdir()
    for name, text in MYCODE.items():
        (folder / "mycode" / name).write_text(text)
