"""A trained network cut down to some of its classes.

Legend: B samples, C classes that are kept, K of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.models.base import TappedModel, evaluating

_NUM_IMAGES = 2


def cut_classes(
    network: TappedModel, outputs: Sequence[int], *, in_channels: int, image_size: int
) -> None:
    """Leave of the last linear layer the rows ``outputs``, in this order: K logits become C.

    The network is changed in place. Raises ValueError unless its logits are that layer's alone:
    those that are left must be what they were.
    """
    linear = network.classifier
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_NUM_IMAGES, in_channels, image_size, image_size, generator=generator)
    before = _logits(network, noise)[:, list(outputs)]
    linear.weight = nn.Parameter(linear.weight.detach()[list(outputs)].clone())
    if linear.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        linear.bias = nn.Parameter(linear.bias.detach()[list(outputs)].clone())
    linear.out_features = len(outputs)
    try:
        after = _logits(network, noise)
    except RuntimeError as error:
        raise ValueError(f"its classes cannot be cut from its last layer: {error}") from error
    alike = after.shape == before.shape and torch.allclose(after, before, rtol=1e-3, atol=1e-3)
    if not alike:
        raise ValueError(
            "its classes cannot be cut: its logits are not those of its last linear layer alone"
        )


def _logits(network: TappedModel, images: Tensor) -> Tensor:
    with evaluating(network):
        return network(images).logits
