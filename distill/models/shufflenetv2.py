"""ShuffleNetV2 (Ma et al. 2018) at width 1, for small images.

Names and shapes of the state dict are those of the checkpoints published with CRD (Tian et al.
2020, RepDistiller). As there, the stem is a 1×1 convolution and the image is not halved before
the first stage.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, global_pool
from distill.models.catalog import FINAL, POOLED
from distill.models.shufflenetv1 import shuffle
from distill.signals import ModelOutput

_STEM = 24
_WIDTHS = (116, 232, 464)
_LAST = 1024
_BLOCKS = (4, 8, 4)


@final
class Unit(nn.Module):
    """One half of the channels passes by; the other goes through 1×1, depthwise 3×3 and 1×1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        passed, out = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = F.relu(self.bn3(self.conv3(self.bn2(self.conv2(out)))))
        return shuffle(torch.cat([passed, out], 1), groups=2)


@final
class DownUnit(nn.Module):
    """Two branches see every channel, both of stride 2; each gives half of the output."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(in_width, in_width, 3, 2, 1, groups=in_width, bias=False)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_width, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d i j"]:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return shuffle(torch.cat([left, right], 1), groups=2)


@final
class ShuffleNetV2(TappedModel):
    """A stem, three stages of units and a 1×1 convolution."""

    taps = ("stem", "stage1", "stage2", "stage3", FINAL, POOLED)

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = _stage(_STEM, _WIDTHS[0], units=_BLOCKS[0])
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], units=_BLOCKS[1])
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], units=_BLOCKS[2])
        self.conv2 = nn.Conv2d(_WIDTHS[2], _LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_LAST)
        self.linear = nn.Linear(_LAST, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        return self.linear

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        stem = F.relu(self.bn1(self.conv1(images)))
        stage1 = self.layer1(stem)
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        final = F.relu(self.bn2(self.conv2(stage3)))
        pooled = global_pool(final)
        features = (stem, stage1, stage2, stage3, final, pooled)
        return ModelOutput(self.linear(pooled), dict(zip(self.taps, features, strict=True)))


def _stage(in_width: int, width: int, *, units: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_width, width), *(Unit(width) for _ in range(units - 1)))


def build(arch: str, *, num_classes: int, in_channels: int) -> ShuffleNetV2:
    """The network called ``shufflenetv2``."""
    assert arch == "shufflenetv2"
    return ShuffleNetV2(num_classes=num_classes, in_channels=in_channels)
