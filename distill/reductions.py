"""What a teacher computes of a feature map before anything is moved or written."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.losses.feature import attention_map
from distill.signals import LOGITS, ModelOutput, SignalSpec


def reduce(output: ModelOutput, spec: SignalSpec) -> Tensor:
    """The signal ``spec`` of a network's output: [B, ...].

    Raises ValueError for a tap that the output lacks, or a reduction of features without space.
    """
    if spec.tap == LOGITS:
        return output.logits
    if spec.tap not in output.features:
        raise ValueError(f"no tap '{spec.tap}'; taps: {', '.join(output.features)}")
    features = output.features[spec.tap]
    if not spec.reduction:
        return features
    if features.ndim != 4:
        raise ValueError(f"'{spec}': '{spec.tap}' is a vector; only maps [c, h, w] are reduced")
    if spec.reduction == "gap":
        return features.mean(dim=(2, 3))
    kind, size = re.fullmatch(r"([a-z]+)(\d*)", spec.reduction).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if size:
        features = F.adaptive_avg_pool2d(features, int(size))
    return attention_map(features) if kind == "attention" else features


def reduced_shape(shapes: dict[str, tuple[int, ...]], spec: SignalSpec) -> tuple[int, ...]:
    """The shape of one sample's signal, given the shapes of the taps (``logits`` among them)."""
    features = {tap: torch.empty(1, *shape, device="meta") for tap, shape in shapes.items()}
    logits = features.pop(LOGITS)
    return tuple(reduce(ModelOutput(logits, features), spec).shape[1:])
