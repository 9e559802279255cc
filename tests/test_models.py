"""The networks of the zoo are the published ones, and behave as the rest expects."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.models.base import Normalized, feature_shapes
from distill.models.catalog import FINAL, architectures, find, taps_of
from distill.models.checkpoints import load_weights, save_weights, weights_digest
from distill.models.inspection import inspect_checkpoint
from tests.networks import build, outline

HERE = Path(__file__).parent
ZOO = json.loads((HERE / "zoo.json").read_text())
REFERENCE = np.load(HERE / "zoo.npz")
SMALLEST = (
    *("resnet8", "wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2"),
    *("dscnn_xs", "cnn_xs"),
)
IMAGES = torch.sin(0.01 * torch.arange(2 * 3 * 32 * 32, dtype=torch.float64)).view(2, 3, 32, 32)


def reference_tensor(name: str, shape: list[int], *, position: int) -> Tensor:
    """Entry ``position`` of the state dict for which zoo.npz holds the outputs."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    numel = math.prod(shape)
    base = torch.sin(0.37 * torch.arange(numel, dtype=torch.float64) + position).view(shape)
    if name.endswith("running_mean") or (len(shape) == 1 and name.endswith("bias")):
        return 0.1 * base
    if len(shape) == 1:
        return 1 + 0.1 * base
    return base * math.sqrt(2 / (numel / shape[0]))


def published_state(arch: str) -> dict[str, Tensor]:
    entries = enumerate(ZOO[arch]["state_dict"])
    return {name: reference_tensor(name, shape, position=j) for j, (name, shape) in entries}


@pytest.mark.parametrize("arch", ZOO)
def test_a_published_checkpoint_gives_the_published_outputs(arch: str, tmp_path: Path) -> None:
    parallel = "module." if arch in ("resnet8x4", "mobilenetv2", "vgg8") else ""
    state = {parallel + name: tensor for name, tensor in published_state(arch).items()}
    torch.save({"model": state, "epoch": 240}, tmp_path / "published.pth")
    model = outline(arch, num_classes=100).double().to_empty(device="cpu")
    load_weights(model, tmp_path / "published.pth")
    with torch.no_grad():
        output = model.eval()(IMAGES)
    np.testing.assert_allclose(output.logits, REFERENCE[f"{arch}.logits"], rtol=1e-6)
    published = [feature for tap, feature in output.features.items() if tap != FINAL]
    means = [feature.mean().item() for feature in published]
    deviations = [feature.std().item() for feature in published]
    np.testing.assert_allclose(means, REFERENCE[f"{arch}.feature_mean"], rtol=1e-6)
    np.testing.assert_allclose(deviations, REFERENCE[f"{arch}.feature_std"], rtol=1e-6)


@pytest.mark.parametrize("arch", ZOO)
def test_parameters_features_and_state_are_the_published_ones(arch: str) -> None:
    model = outline(arch, num_classes=100)
    assert sum(p.numel() for p in model.parameters()) == ZOO[arch]["parameters"]
    shapes = feature_shapes(model, 3, 32)
    published = [tap for tap in model.taps if tap != FINAL]
    assert [list(shapes[tap]) for tap in published] == ZOO[arch]["features"]
    state = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
    renamed = {ours: theirs for theirs, ours in model.published_prefixes.items()}
    for ours, theirs in renamed.items():
        state = [(name.replace(ours, theirs), shape) for name, shape in state]
    assert state == [(name, shape) for name, shape in ZOO[arch]["state_dict"]]


@pytest.mark.parametrize("arch", architectures())
def test_taps_and_sizes_of_images(arch: str) -> None:
    model = outline(arch)
    shapes = feature_shapes(model, 3, 32)
    assert tuple(shapes) == (*model.taps, "logits") == (*(taps_of(arch) or ()), "logits")
    assert shapes["pooled"] == (model.classifier.in_features,)
    assert feature_shapes(model, 3, 64)["pooled"] == shapes["pooled"]
    grey = outline(arch, in_channels=1, image_size=28)
    assert feature_shapes(grey, 1, 28)["logits"] == (10,)


@pytest.mark.parametrize("arch", SMALLEST)
def test_the_classifier_maps_pooled_to_logits_and_is_named_in_the_catalog(
    arch: str, tmp_path: Path
) -> None:
    model = build(arch, num_classes=7, in_channels=1, image_size=28).eval()
    output = model(torch.rand(2, 1, 28, 28))
    torch.testing.assert_close(model.classifier(output.features["pooled"]), output.logits)
    last = [feature for feature in output.features.values() if feature.ndim == 4][-1]
    torch.testing.assert_close(last.mean((2, 3)), output.features["pooled"])
    save_weights(model, tmp_path / "w.safetensors")
    header = inspect_checkpoint(tmp_path / "w.safetensors")
    assert header.num_classes(arch) == 7
    if arch in ZOO:
        assert set(header.shapes or ()) == {name for name, _ in ZOO[arch]["state_dict"]}


def test_resnet20x4_is_resnet32x4_with_fewer_blocks() -> None:
    names = set(build("resnet20x4").state_dict())
    assert names < set(build("resnet32x4").state_dict())
    assert "layer3.2.conv2.weight" in names
    assert "layer3.3.conv2.weight" not in names


def test_sizes_of_the_fast_networks() -> None:
    counts = {
        arch: sum(p.numel() for p in outline(arch).parameters())
        for arch in architectures()
        if (entry := find(arch)) is not None and entry.family in ("cnn", "dscnn")
    }
    assert 10_000 < counts["cnn_xs"] < 15_000
    assert 40_000 < counts["cnn_s"] < 60_000
    assert 180_000 < counts["cnn_m"] < 220_000
    sizes = [counts[f"dscnn_{size}"] for size in ("xs", "s", "m", "l")]
    assert sizes == sorted(sizes)


def test_without_norm_a_sample_is_alone_even_in_training() -> None:
    images = torch.rand(4, 3, 32, 32)
    bare = build("cnn_xs", options={"norm": "none"}).train()
    torch.testing.assert_close(bare(images).logits[:1], bare(images[:1]).logits)
    batch = build("cnn_xs", options={"norm": "batch"}).train()
    assert not torch.allclose(batch(images).logits[:1], batch(images[:1]).logits, atol=1e-3)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_step_down_the_gradient_lowers_the_loss(norm: str) -> None:
    torch.manual_seed(0)
    model = build("cnn_xs", options={"norm": norm})
    images, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % 10
    before = nn.functional.cross_entropy(model(images).logits, labels)
    gradients = torch.autograd.grad(before, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= 1e-3 * gradient
    assert nn.functional.cross_entropy(model(images).logits, labels) < before


@pytest.mark.parametrize("arch", ["vgg8", "mobilenetv2", "torchvision/resnet18"])
def test_models_can_be_copied_pickled_and_called_with_other_weights(arch: str) -> None:
    model = build(arch).eval()
    images = torch.rand(1, 3, 32, 32)
    expected = model(images).logits
    torch.testing.assert_close(copy.deepcopy(model)(images).logits, expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(images).logits, expected)
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    output = torch.func.functional_call(model, zeros, (images,))
    assert not output.logits.any()


def test_normalized_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    network = build("cnn_xs").eval()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    model = Normalized(network, mean=mean, std=std)
    assert Normalized(network, mean=(0, 0, 0), std=(1, 1, 1))(images).logits.isfinite().all()
    torch.testing.assert_close(model(images).logits, network(expected).logits)
    assert model.double()(images).logits.dtype == torch.float64


def test_normalisation_is_no_part_of_the_weights() -> None:
    network = build("cnn_xs")
    model = Normalized(network, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert set(model.state_dict()) == {f"network.{name}" for name in network.state_dict()}
    assert weights_digest(model) == weights_digest(network)
    with pytest.raises(ValueError, match="std above 0"):
        Normalized(network, mean=(0.5,), std=(0.0,))


def test_measuring_shapes_leaves_the_model_as_it_was() -> None:
    model = Normalized(build("cnn_xs"), mean=(0.5,) * 3, std=(0.5,) * 3).train()
    model.network.classifier.eval()
    before = copy.deepcopy(model.state_dict())
    assert feature_shapes(model, 3, 32)["stage3"] == (40, 4, 4)
    assert model.training
    assert not model.network.classifier.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
