"""torchvision's image classifiers as ``torchvision/NAME``, without pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torchvision import models

from distill.models.base import modules_by_path
from distill.models.catalog import TORCHVISION, suggest
from distill.models.hooked import HookedModel, find_head

# Arguments without which a network cannot be trained here: auxiliary heads give a second set of
# logits, and transformers are built for one size of image.
_NO_AUXILIARY: Mapping[str, object] = {"aux_logits": False, "init_weights": True}


def _arguments(name: str, *, image_size: int) -> Mapping[str, object]:
    if name in ("googlenet", "inception_v3"):
        return _NO_AUXILIARY
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    return {}


def build(
    arch: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    options: Mapping[str, object],
    taps: Sequence[str],
) -> HookedModel:
    """The classifier NAME of ``torchvision/NAME``; ``options`` go to its function.

    Its first convolution is made anew for images that have not 3 channels. ``taps`` are module
    paths; ``pooled`` is what the last linear layer sees. Raises ValueError, with near misses, for
    an unknown name, option or tap.
    """
    name = arch.removeprefix(TORCHVISION)
    known = models.list_models(module=models)
    if name not in known:
        hint = suggest(name, known, label="classifiers")
        raise ValueError(f"torchvision has no classifier '{name}'; {hint}")
    arguments = {**_arguments(name, image_size=image_size), **options}
    try:
        network = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"'{arch}' cannot be built with ({given}): {error}") from error
    if in_channels != 3:
        _replace_first_convolution(network, in_channels=in_channels)
    head = find_head(network, num_classes=num_classes)
    return HookedModel(network, name=arch, head=head, taps=taps)


def _replace_first_convolution(network: nn.Module, *, in_channels: int) -> None:
    modules = modules_by_path(network)
    path = next(path for path, module in modules.items() if isinstance(module, nn.Conv2d))
    old = network.get_submodule(path)
    assert isinstance(old, nn.Conv2d)
    assert not isinstance(old.padding, str)
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        (old.kernel_size[0], old.kernel_size[1]),
        (old.stride[0], old.stride[1]),
        (old.padding[0], old.padding[1]),
        bias=old.bias is not None,
    )
    network.set_submodule(path, new)
