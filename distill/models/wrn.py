"""Wide residual networks (Zagoruyko & Komodakis 2016), pre-activation form.

Names and shapes of the state dict are those of the checkpoints published with CRD (Tian et al.
2020, RepDistiller).
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, global_pool, init_convolutions
from distill.models.catalog import FINAL, POOLED
from distill.signals import ModelOutput


@final
class PreactivationBlock(nn.Module):
    """BN, ReLU and convolution, twice; where widths change, the shortcut starts after the ReLU."""

    def __init__(self, in_width: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = (  # the published name
            nn.Conv2d(in_width, width, 1, stride=stride, bias=False) if in_width != width else None
        )

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d i j"]:
        active = F.relu(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + (x if self.convShortcut is None else self.convShortcut(active))


@final
class Stage(nn.Module):
    """Blocks in a row, under the published name ``layer``."""

    def __init__(self, in_width: int, width: int, *, blocks: int, stride: int) -> None:
        super().__init__()
        first = PreactivationBlock(in_width, width, stride=stride)
        rest = (PreactivationBlock(width, width, stride=1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d i j"]:
        return self.layer(x)


@final
class WideResNet(TappedModel):
    """``depth`` = 6n + 4 layers: a stem and three stages of n blocks, ``widen`` times as wide."""

    taps = ("stem", "stage1", "stage2", "stage3", FINAL, POOLED)

    def __init__(self, *, depth: int, widen: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, widths[0], blocks=blocks, stride=1)
        self.block2 = Stage(widths[0], widths[1], blocks=blocks, stride=2)
        self.block3 = Stage(widths[1], widths[2], blocks=blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        stem = self.conv1(images)
        stage1 = self.block1(stem)
        stage2 = self.block2(stage1)
        stage3 = self.block3(stage2)
        final = F.relu(self.bn1(stage3))
        pooled = global_pool(final)
        features = (stem, stage1, stage2, stage3, final, pooled)
        return ModelOutput(self.fc(pooled), dict(zip(self.taps, features, strict=True)))


def build(arch: str, *, num_classes: int, in_channels: int) -> WideResNet:
    """The network called ``wrn_DEPTH_WIDEN``."""
    _, depth, widen = arch.split("_")
    return WideResNet(
        depth=int(depth), widen=int(widen), num_classes=num_classes, in_channels=in_channels
    )
