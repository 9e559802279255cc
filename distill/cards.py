"""The card of an exported student: what it is, where it comes from, and how to load it.

Importing this imports neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import yaml

FILES: Mapping[str, str] = {
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
    "torch": "model.pt2",
}
CONFIG_FILE = "config.json"  # beside safetensors, which hold no network
CARD_FILE = "README.md"
FACTS_FILE = "card.json"
INPUT, OUTPUT = "images", "logits"
# What the pixels of a data set are; others are as in the files that they come from.
_PIXELS = {
    "image_folder": "RGB, the shorter side resized to {size} (bilinear, antialiased), the centre "
    "cropped",
    "cifar10": "RGB",
    "cifar100": "RGB",
}
_SNIPPETS = {
    "onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
images = np.zeros((1, {channels}, {size}, {size}), np.uint8)  # your images, any number
(logits,) = session.run(["{output}"], {{"{input}": images}})
print(logits.argmax(1))
""",
    "torch": """\
import torch

network = torch.export.load("{file}").module()
images = torch.zeros(1, {channels}, {size}, {size}, dtype=torch.uint8)  # your images, any number
print(network(images).softmax(1))
""",
    "safetensors": """\
import json

from safetensors.torch import load_file

weights = load_file("{file}")
with open("{config}") as file:
    config = json.load(file)
print(config["student"]["arch"], config["mean"], config["std"], len(weights))
""",
}
_NOTES = {
    "onnx": "The graph normalises; class names are in its metadata.",
    "torch": "The program normalises. PyTorch {torch} wrote it; much older or newer ones may not "
    "read it. Reading it may run code that it brings along: take it from whom you trust.",
    "safetensors": "These are tensors alone: without Tutelage, load them into a network of your "
    "own of the same shape, normalise by `mean` and `std` of `{config}`, or take another format. "
    "With Tutelage: `distill.export.load_model(FOLDER)`.",
}


@final
@dataclass(frozen=True, slots=True)
class TeacherCard:
    """What a card says of a teacher."""

    arch: str
    test_accuracy: float | None  # in 0..1; None: the run is not finished
    parameters: int
    latency_ms: float
    times_the_student: float  # its latency over the student's


@final
@dataclass(frozen=True, slots=True)
class FileCard:
    """What a card says of a file."""

    file: str
    num_bytes: int
    sha256: str
    largest_difference: float  # of its logits from the network's, over ``num_compared`` images
    num_compared: int


@final
@dataclass(frozen=True, slots=True)
class Latency:
    """How the times of a card were measured, and the student's."""

    student_ms: float
    num_passes: int  # the time is their median
    batch_size: int
    num_threads: int
    processor: str
    torch: str


@final
@dataclass(frozen=True, slots=True)
class Card:
    """All facts of an export; of plain values, as JSON has them."""

    experiment: str
    seed: int
    weights: str  # last, or best on validation
    epochs_trained: int
    epochs_planned: int
    tutelage: str  # version
    student: Mapping[str, Any]
    method: Mapping[str, Any]
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    test_accuracy: float | None  # in 0..1; None: the run is not finished, or was not tested
    validation_accuracy: float | None
    parameters: int  # of all that is exported
    parameters_added: int  # by the method: projectors and shared classifiers
    latency: Latency
    teachers: Mapping[str, TeacherCard]
    interface: Mapping[str, Any]  # input, output and class_names
    files: Mapping[str, FileCard]  # by format

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @property
    def title(self) -> str:
        arch, method = self.student["arch"], self.method["name"]
        if not self.teachers:
            return f"{arch}, trained with {method}"
        return f"{arch}, distilled with {method} from {', '.join(self.teachers)}"


def markdown(card: Card) -> str:
    """The card for people: a model card, with a snippet for each format."""
    sections = (
        _head(card),
        _comparison(card),
        _interface(card),
        *(_loading(card, form) for form in card.files),
        _origin(card),
    )
    return "\n".join(sections)


def _head(card: Card) -> str:
    which = {"last": "the last weights", "best": "the weights that were best on validation data"}
    return f"""\
# {card.title}

An image classifier of {len(card.interface["class_names"])} classes, made with Tutelage
{card.tutelage}: experiment `{card.experiment}`, seed {card.seed}, {which[card.weights]},
after {card.epochs_trained} of {card.epochs_planned} epochs.

| accuracy | |
|---|---|
| test | {_percent(card.test_accuracy)} |
| validation | {_percent(card.validation_accuracy)} |
"""


def _comparison(card: Card) -> str:
    latency, added = card.latency, ""
    own = (_percent(card.test_accuracy), f"{card.parameters:,}", f"{latency.student_ms:.3g}", "1")
    rows: list[tuple[str, ...]] = [("**this student**", f"`{card.student['arch']}`", *own)]
    for name, teacher in card.teachers.items():
        times = f"{teacher.latency_ms:.3g}", f"{teacher.times_the_student:.3g}"
        numbers = (_percent(teacher.test_accuracy), f"{teacher.parameters:,}", *times)
        rows.append((name, f"`{teacher.arch}`", *numbers))
    if card.parameters_added:
        added = (
            f"Of the student's parameters, {card.parameters_added:,} were added by "
            f"`{card.method['name']}`: it answers through them.\n\n"
        )
    heading = ("", "network", "test accuracy", "parameters", "ms an image", "times the student's")
    return f"""\
## Student and teachers

{_table(heading, rows)}
{added}Times are of one image on one thread of a CPU ({latency.processor}) in PyTorch
{latency.torch}, not compiled: the median of {latency.num_passes} forward passes, measured at
export. A teacher's time is that of its architecture; its weights play no part.
"""


def _interface(card: Card) -> str:
    taken, given = card.interface["input"], card.interface["output"]
    _, channels, size, _ = taken["shape"]
    pixels = _PIXELS.get(card.data["name"], "channels as in the data").format(size=size)
    names = "\n".join(f"{i}. {name}" for i, name in enumerate(card.interface["class_names"]))
    return f"""\
## Input and output

`{INPUT}`: {taken["dtype"]}, [batch, {channels}, {size}, {size}], pixels from 0 to 255 as they are
stored ({pixels}). Do not scale or normalise them: the network does, by mean {taken["mean"]}
and standard deviation {taken["std"]} of pixels in 0 to 1.

`{OUTPUT}`: {given["dtype"]}, [batch, {given["shape"][1]}]; their softmax is the probabilities of
the classes:

{names}
"""


def _loading(card: Card, form: str) -> str:
    entry = card.files[form]
    _, channels, size, _ = card.interface["input"]["shape"]
    values = {"file": entry.file, "config": CONFIG_FILE, "input": INPUT, "output": OUTPUT}
    code = _SNIPPETS[form].format(channels=channels, size=size, **values)
    note = _NOTES[form].format(torch=card.latency.torch, **values)
    return f"""\
## {entry.file}

{entry.num_bytes:,} bytes. On {entry.num_compared} test images its logits are within
{entry.largest_difference:.1e} of the trained network's. {note}

```python
{code}```
"""


def _origin(card: Card) -> str:
    settings = {"method": card.method, "data": card.data, "training": card.training}
    text = yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False, allow_unicode=True)
    return f"""\
## Method, data and training

```yaml
{text}```
"""


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _percent(accuracy: float | None) -> str:
    return "not measured" if accuracy is None else f"{100 * accuracy:.2f} %"
