"""Checkpoints: what loads, what is refused and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distill.models.base import Normalized
from distill.models.checkpoints import load_weights, save_weights, weights_digest
from distill.models.inspection import inspect_checkpoint
from tests.networks import build


@pytest.mark.parametrize("arch", ["mobilenetv2", "cnn_s", "torchvision/resnet18"])
def test_weights_survive_the_round_trip(arch: str, tmp_path: Path) -> None:
    model, other = build(arch), build(arch)
    assert weights_digest(model) != weights_digest(other)
    save_weights(Normalized(model, mean=(0.5,), std=(0.5,)), tmp_path / "a.safetensors")
    load_weights(other, tmp_path / "a.safetensors")
    assert weights_digest(model) == weights_digest(other)
    save_weights(other, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_digest_sees_every_bit_of_the_weights_and_no_counter() -> None:
    model = build("cnn_xs")
    first = weights_digest(model)
    model.train()(torch.rand(2, 3, 32, 32))
    assert weights_digest(model) != first  # the running statistics moved
    second = weights_digest(model)
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer += 1
    assert weights_digest(model) == second
    assert weights_digest(model.double()) != second


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "net", None])
def test_half_precision_and_any_wrapper_load(wrapper: str | None, tmp_path: Path) -> None:
    source, model = build("cnn_xs").half(), build("cnn_xs")
    state = {name: v for name, v in source.state_dict().items() if "num_batches" not in name}
    torch.save({wrapper: state} if wrapper else state, tmp_path / "half.pt")
    load_weights(model, tmp_path / "half.pt")
    assert model.classifier.weight.dtype == torch.float32
    assert torch.equal(model.classifier.weight, source.classifier.weight.float())


def test_a_checkpoint_in_torchs_old_format_loads(tmp_path: Path) -> None:
    source, model = build("cnn_xs"), build("cnn_xs")
    path = tmp_path / "old.pth"
    torch.save({"model": source.state_dict()}, path, _use_new_zipfile_serialization=False)
    assert inspect_checkpoint(path).shapes is None
    load_weights(model, path)
    assert weights_digest(model) == weights_digest(source)


def test_a_class_count_that_differs_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    torch.save({"model": build("resnet8", num_classes=100).state_dict()}, tmp_path / "t.pth")
    assert inspect_checkpoint(tmp_path / "t.pth").num_classes("resnet8") == 100
    model = build("resnet8")
    before = weights_digest(model)
    with pytest.raises(ValueError, match="classifier has 100 classes, the data has 10") as caught:
        load_weights(model, tmp_path / "t.pth")
    assert "t.pth" in str(caught.value)
    assert weights_digest(model) == before


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    save_weights(build("resnet14"), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"unexpected: layer1\.1\.bn1\.bias,.* and \d+ more"):
        load_weights(build("resnet8"), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"missing: layer1\.2\.conv1\.weight"):
        load_weights(build("resnet20"), tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=r"conv1\.weight \[16, 3, 3, 3\] instead of \[16, 1, 3, 3\]"
    ):
        load_weights(build("resnet14", in_channels=1), tmp_path / "w.safetensors")


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    torch.save({"model": build("cnn_xs").state_dict(), "path": tmp_path}, tmp_path / "a.pt")
    assert inspect_checkpoint(tmp_path / "a.pt").shapes is None
    with pytest.raises(ValueError, match=r"a\.pt' cannot be loaded.*save the state dict alone"):
        load_weights(build("cnn_xs"), tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b\.pt' holds no state dict"):
        load_weights(build("cnn_xs"), tmp_path / "b.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_damaged_checkpoint_is_named(suffix: str, tmp_path: Path) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    if suffix == "pt":
        torch.save(build("cnn_xs").state_dict(), whole)
    else:
        save_weights(build("cnn_xs"), whole)
    content = whole.read_bytes()
    for length in (len(content) // 2, len(content) - 1, 20):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"cut\.{suffix}' is (damaged or )?cut short"):
            inspect_checkpoint(path)


def test_a_flipped_bit_in_a_torch_file_is_found(tmp_path: Path) -> None:
    torch.save(build("cnn_xs").state_dict(), tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pt' is damaged"):
        inspect_checkpoint(tmp_path / "a.pt")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pt' does not exist"):
        inspect_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="is a folder"):
        inspect_checkpoint(tmp_path)
    for content in (b"", b"hello, this is text", (2**40).to_bytes(8, "little") + b"{}"):
        (tmp_path / "text.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.pt' is not a checkpoint"):
            inspect_checkpoint(tmp_path / "text.pt")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1]},
        [1],
    ],
)
def test_a_header_that_lies_is_refused(entry: object, tmp_path: Path) -> None:
    header = json.dumps({"w": entry}).encode()
    path = tmp_path / "lie.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=r"lie\.safetensors' is damaged or cut short"):
        inspect_checkpoint(path)
