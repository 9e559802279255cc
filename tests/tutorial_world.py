"""What the tutorials' and own pages' examples find where they are tried: photos, weights, code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from distill.datasets import DataConfig, load_data
from tests.doc_files import DOCS

TUTORIALS = DOCS / "tutorials"
CLASSES = ("bus", "car", "tram")
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


def furnish(folder: Path) -> None:
    """Everything that the examples name; the weights' files are whole, and hold nothing of use."""
    write_photos(folder / "photos")
    (folder / "phone.yaml").write_text(phone_yaml())
    for name in ("resnet50.pt", "efficientnet_b0.pt", "regnet_y_400mf.pt", "wide.safetensors"):
        save_file({"nothing": np.zeros(1, np.float32)}, folder / name)
    (folder / "mycode").mkdir()
    for name, text in MYCODE.items():
        (folder / "mycode" / name).write_text(text)
