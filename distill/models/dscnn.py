"""Depthwise-separable networks for phones and microcontrollers.

Name and block are those of Zhang et al. 2017, "Hello Edge", sec. 4 (DS-CNN). There the width is
constant and the input is a spectrogram; that width and resolution change by stage, as images
want, is our reading. Parameter counts are near the paper's S (39 k), M (189 k) and L (498 k).
"""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, global_pool
from distill.models.catalog import POOLED
from distill.signals import ModelOutput

_SIZES = {  # width of the stem; blocks of each stage
    "dscnn_xs": (16, (1, 2, 2)),  # 11 thousand parameters with 10 classes
    "dscnn_s": (32, (1, 2, 2)),
    "dscnn_m": (64, (1, 2, 3)),
    "dscnn_l": (96, (2, 3, 3)),
}


@final
class DSCNN(TappedModel):
    """A 3×3 stem of stride 2 and three stages of separable blocks; each halving doubles width."""

    taps = ("stem", "stage1", "stage2", "stage3", POOLED)

    def __init__(
        self, *, width: int, blocks: tuple[int, int, int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stage1 = _stage(width, width, blocks=blocks[0], stride=1)
        self.stage2 = _stage(width, 2 * width, blocks=blocks[1], stride=2)
        self.stage3 = _stage(2 * width, 4 * width, blocks=blocks[2], stride=2)
        self.fc = nn.Linear(4 * width, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        stem = self.stem(images)
        stage1 = self.stage1(stem)
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        pooled = global_pool(stage3)
        features = (stem, stage1, stage2, stage3, pooled)
        return ModelOutput(self.fc(pooled), dict(zip(self.taps, features, strict=True)))


def _block(in_width: int, width: int, *, stride: int) -> nn.Sequential:
    """Depthwise 3×3 and pointwise 1×1, each with BN and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_width, in_width, 3, stride, padding=1, groups=in_width, bias=False),
        nn.BatchNorm2d(in_width),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _stage(in_width: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = _block(in_width, width, stride=stride)
    return nn.Sequential(first, *(_block(width, width, stride=1) for _ in range(blocks - 1)))


def build(arch: str, *, num_classes: int, in_channels: int) -> DSCNN:
    """The network called ``dscnn_xs``, ``dscnn_s``, ``dscnn_m`` or ``dscnn_l``."""
    width, blocks = _SIZES[arch]
    return DSCNN(width=width, blocks=blocks, num_classes=num_classes, in_channels=in_channels)
