"""ResNets for small images (He et al. 2016, sec. 4.2), in the form of the distillation literature.

Names and shapes of the state dict are those of the checkpoints published with CRD (Tian et al.
2020, RepDistiller); ``x4`` networks are twice as wide at the stem and four times in the stages.
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, global_pool, init_convolutions
from distill.models.catalog import POOLED
from distill.signals import ModelOutput


@final
class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where shapes change."""

    def __init__(self, in_width: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
            if stride != 1 or in_width != width
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d i j"]:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.downsample(x))


@final
class ResNet(TappedModel):
    """``depth`` = 6n + 2 layers: a stem and three stages of n basic blocks."""

    taps = ("stem", "stage1", "stage2", "stage3", POOLED)

    def __init__(
        self, *, depth: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], blocks=blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks=blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks=blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        stem = F.relu(self.bn1(self.conv1(images)))
        stage1 = self.layer1(stem)
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        pooled = global_pool(stage3)
        features = (stem, stage1, stage2, stage3, pooled)
        return ModelOutput(self.fc(pooled), dict(zip(self.taps, features, strict=True)))


def _stage(in_width: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_width, width, stride=stride)
    return nn.Sequential(first, *(BasicBlock(width, width, stride=1) for _ in range(blocks - 1)))


def build(arch: str, *, num_classes: int, in_channels: int) -> ResNet:
    """The network called ``resnetDEPTH`` or ``resnetDEPTHx4``."""
    depth, _, wide = arch.removeprefix("resnet").partition("x")
    widths = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    return ResNet(depth=int(depth), widths=widths, num_classes=num_classes, in_channels=in_channels)
