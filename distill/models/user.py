"""Users' own networks, as ``package.module:function``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distill.models.base import TappedModel, evaluating
from distill.models.catalog import suggest
from distill.models.hooked import HookedModel, find_head
from distill.signals import ModelOutput
from distill.user_code import load_function


def build(
    arch: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    options: Mapping[str, object],
    taps: Sequence[str],
) -> TappedModel:
    """Call ``function(num_classes=…, in_channels=…, image_size=…, **options)``.

    It returns a TappedModel, which is taken as it is, or a module whose forward gives logits
    [B, C] or a ModelOutput; such a module's taps are its modules' paths, what its ModelOutput
    holds, and ``pooled``. One black image is passed through it. Raises ValueError where the
    function cannot be imported or called, or where its network does not give what it should.
    """
    function = load_function(arch)
    try:
        network = function(
            num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options
        )
    except TypeError as error:
        takes = "num_classes, in_channels, image_size and the options as keyword arguments"
        raise ValueError(f"calling '{arch}' failed: {error}; it is given {takes}") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"'{arch}' returned a {kind}; it must return a torch.nn.Module")
    if isinstance(network, TappedModel):
        for tap in taps:
            if tap not in network.taps:
                hint = suggest(tap, network.taps, label="taps")
                raise ValueError(f"'{arch}' has no tap '{tap}'; {hint}")
        return network
    native = probe(arch, network, num_classes, (1, in_channels, image_size, image_size))
    head = find_head(network, num_classes=num_classes)
    return HookedModel(network, name=arch, head=head, taps=taps, native=native)


def probe(
    arch: str, network: nn.Module, num_classes: int, size: tuple[int, int, int, int]
) -> tuple[str, ...]:
    """Check the network's output for one image; give the taps of its own ModelOutput."""
    try:
        with evaluating(network):
            output = network(torch.zeros(size))
    except Exception as error:
        shape = list(size)
        raise ValueError(f"the network of '{arch}' failed for images {shape}: {error}") from error
    logits = output.logits if isinstance(output, ModelOutput) else output
    expected = (size[0], num_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network of '{arch}' gave {got}, not logits {list(expected)}")
    return tuple(output.features) if isinstance(output, ModelOutput) else ()
