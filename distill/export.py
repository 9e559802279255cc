"""A trained student as files that others load: ONNX, torch.export and safetensors.

What is written is the network that is evaluated, with projector and shared classifiers where its
method has them. Normalisation is part of it: it takes images as they are stored. Every file is
read back and held against the network before it counts.

Legend: N images, B of a batch, C classes, c channels, h height, w width.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from distill.blueprint import Blueprint
from distill.cards import CONFIG_FILE, FILES, INPUT, OUTPUT
from distill.config import Optimizer
from distill.learners import LEARNERS, Compute, Learner
from distill.signals import ModelOutput

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# Of the largest logit, at least of 1: float32 rounds in another order in another runtime.
TOLERANCE = 1e-4
_ROUNDS = 5  # of timing each network in turn


class ExportError(RuntimeError):
    """A network that cannot be written, or a file that does not answer as the network does."""


@final
class Logits(nn.Module):
    """An evaluated network that gives its logits alone: what is exported."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: UInt8[Tensor, "B c h w"]) -> Float[Tensor, "B C"]:
        output: ModelOutput = self.model(images)
        return output.logits


def ready(model: nn.Module) -> Logits:
    """The network for export: in eval mode, and no parameter asks for gradients."""
    return Logits(model).eval().requires_grad_(False)


def fresh_learner(blueprint: Blueprint, optimizer: Optimizer) -> Learner:
    """What a run's checkpoint is restored into, on the CPU, whatever it was trained on."""
    student, method = blueprint.build()
    compute = Compute(torch.device("cpu"))
    return LEARNERS[blueprint.method.learner](student, method, optimizer=optimizer, compute=compute)


def load_model(folder: Path | str) -> Logits:
    """The network of an export as safetensors: uint8 [B, c, h, w] to logits [B, C], on the CPU.

    Raises ValueError naming the file that is damaged or of another network, or OSError.
    """
    blueprint = Blueprint.read(Path(folder) / CONFIG_FILE)
    student, method = blueprint.build()
    model = method.inference_model(student)
    path = Path(folder) / FILES["safetensors"]
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"'{path}' does not fit its {CONFIG_FILE}: {reason}") from error
    return ready(model)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def write(model: Logits, blueprint: Blueprint, folder: Path, *, form: str) -> Path:
    """Write one format's files into ``folder``; give the one with the weights.

    ``form`` is a key of ``FILES``. Raises ExportError where torch.export cannot trace the network.
    """
    path = folder / FILES[form]
    # In each file, so that it can do without the card.
    notes = {name: json.dumps(value) for name, value in described(blueprint).items()}
    if form == "safetensors":
        text = blueprint.model_dump_json(indent=2) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        state = {name: v.contiguous().clone() for name, v in model.model.state_dict().items()}
        # Not save_file, whose files nobody else may read.
        path.write_bytes(save(state, metadata={"format": "pt", **notes}))
        return path
    program = _traced(model, blueprint)
    if form == "torch":
        torch.export.save(program, path, extra_files=notes)
        return path
    converted = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: "batch"}},
        verbose=False,
    )
    assert converted is not None
    converted.model.metadata_props.update(notes)
    for node in converted.model.graph:  # a kilobyte each of what only the converter's authors read
        node.metadata_props.clear()
    converted.save(path)
    return path


def described(blueprint: Blueprint) -> dict[str, Any]:
    """What a user of the network must know, of plain values: its input, its output, its classes."""
    channels, size = blueprint.in_channels, blueprint.image_size
    return {
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["batch", channels, size, size],
            "range": [0, 255],
            "mean": list(blueprint.mean),
            "std": list(blueprint.std),
        },
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", blueprint.num_classes]},
        "class_names": list(blueprint.class_names),
    }


def _traced(model: Logits, blueprint: Blueprint) -> ExportedProgram:
    shape = (blueprint.in_channels, blueprint.image_size, blueprint.image_size)
    # Not one image: a batch of one would be taken for a constant.
    images = torch.zeros((2, *shape), dtype=torch.uint8)
    try:
        program = torch.export.export(
            model, (images,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}}
        )
    except Exception as error:  # whatever a user's own network raises under the tracer
        arch, reason = blueprint.student.arch, str(error).strip().splitlines()[0]
        raise ExportError(
            f"torch.export cannot trace '{arch}': {reason}; export it as safetensors, or rewrite "
            "what depends on the values of tensors"
        ) from error
    for node in program.graph.nodes:  # it names files of this machine, which are nobody's business
        node.meta.pop("stack_trace", None)
    return program


def read_back(path: Path, *, form: str) -> Callable[[UInt8[np.ndarray, "N c h w"]], np.ndarray]:
    """What answers for images as the file says: logits float32 [N, C]. Reads the file from disk."""
    if form == "onnx":
        from onnxruntime import InferenceSession

        session = InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: cast("list[np.ndarray]", session.run([OUTPUT], {INPUT: images}))[0]
    network = load_model(path.parent) if form == "safetensors" else torch.export.load(path).module()
    return lambda images: answer(network, images)


def answer(network: nn.Module, images: UInt8[np.ndarray, "N c h w"]) -> Float[np.ndarray, "N C"]:
    """A network's logits."""
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()


def largest_difference(
    path: Path,
    reference: Float[np.ndarray, "N C"],
    images: UInt8[np.ndarray, "N c h w"],
    *,
    form: str,
) -> float:
    """How far a file's logits are from the network's: the largest difference over the images.

    The first image is asked about alone, the others together: a file takes any number. Raises
    ExportError for a file that is further off than rounding explains.
    """
    ask = read_back(path, form=form)
    parts = [ask(part) for part in (images[:1], images[1:]) if len(part)]
    difference = float(np.abs(np.concatenate(parts) - reference).max())
    bound = TOLERANCE * max(1.0, float(np.abs(reference).max()))
    if not difference <= bound:  # so that NaN is refused, too
        raise ExportError(
            f"{path.name}: its logits differ from PyTorch's by up to {difference:.2g} on "
            f"{len(images)} test images, where rounding explains {bound:.2g}; it was not kept"
        )
    return difference


def latencies_ms(
    networks: Mapping[str, nn.Module], image: UInt8[np.ndarray, "1 c h w"], *, num_passes: int
) -> dict[str, float]:
    """Median milliseconds of a forward pass on one thread of the CPU.

    Networks take turns, a fifth of the passes at a time: what else the machine does meets all.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    pixels, threads = torch.from_numpy(image), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_ROUNDS):
                for name, network in networks.items():
                    network(pixels)  # not timed: the other networks' weights are in the caches
                    for _ in range(max(1, num_passes // _ROUNDS)):
                        started = time.perf_counter()
                        network(pixels)
                        times[name].append(1e3 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in times.items()}
