"""Networks for tests, without the arguments that most tests do not care about."""

from __future__ import annotations

import torch

from distill.models import build_model
from distill.models.base import TappedModel


def build(
    arch: str, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, **others
) -> TappedModel:
    return build_model(
        arch, num_classes=num_classes, in_channels=in_channels, image_size=image_size, **others
    )


def outline(arch: str, **sizes) -> TappedModel:
    """The network without its weights: shapes cost nothing."""
    with torch.device("meta"):
        return build(arch, **sizes)
