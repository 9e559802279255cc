"""ShuffleNet (Zhang et al. 2018) with 3 groups, for small images.

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
from distill.models.catalog import POOLED
from distill.signals import ModelOutput

_GROUPS = 3
_STEM = 24
_WIDTHS = (240, 480, 960)
_BLOCKS = (4, 8, 4)


def shuffle(x: Float[Tensor, "B c h w"], *, groups: int) -> Float[Tensor, "B c h w"]:
    """Interleave the channels of ``groups`` groups, so that the next layer's groups mix them."""
    B, c, h, w = x.shape
    return x.view(B, groups, c // groups, h, w).transpose(1, 2).reshape(B, c, h, w)


@final
class Bottleneck(nn.Module):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1.

    A block of stride 2 appends its average-pooled input where any other adds its input.
    """

    def __init__(self, in_width: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        outputs = width - in_width if stride == 2 else width
        inner = outputs // 4
        # The stem's few channels are not grouped (Zhang et al. 2018, sec. 3.2).
        self.groups = 1 if in_width == _STEM else _GROUPS
        self.conv1 = nn.Conv2d(in_width, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d i j"]:
        out = shuffle(F.relu(self.bn1(self.conv1(x))), groups=self.groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        if self.stride == 2:
            return F.relu(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1))
        return F.relu(out + x)


@final
class ShuffleNetV1(TappedModel):
    """A stem and three stages of bottlenecks."""

    taps = ("stem", "stage1", "stage2", "stage3", POOLED)

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = _stage(_STEM, _WIDTHS[0], blocks=_BLOCKS[0])
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], blocks=_BLOCKS[1])
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], blocks=_BLOCKS[2])
        self.linear = nn.Linear(_WIDTHS[2], num_classes)

    @property
    def classifier(self) -> nn.Linear:
        return self.linear

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        stem = F.relu(self.bn1(self.conv1(images)))
        stage1 = self.layer1(stem)
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        pooled = global_pool(stage3)
        features = (stem, stage1, stage2, stage3, pooled)
        return ModelOutput(self.linear(pooled), dict(zip(self.taps, features, strict=True)))


def _stage(in_width: int, width: int, *, blocks: int) -> nn.Sequential:
    first = Bottleneck(in_width, width, stride=2)
    return nn.Sequential(first, *(Bottleneck(width, width, stride=1) for _ in range(blocks - 1)))


def build(arch: str, *, num_classes: int, in_channels: int) -> ShuffleNetV1:
    """The network called ``shufflenetv1``."""
    assert arch == "shufflenetv1"
    return ShuffleNetV1(num_classes=num_classes, in_channels=in_channels)
