"""Plain convolutional networks that train fast on a CPU: five layers, strides for pooling.

For experiments, tests and students of small images; not published networks.
"""

from __future__ import annotations

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, global_pool, init_convolutions
from distill.models.catalog import POOLED
from distill.signals import ModelOutput

Norm = Literal["batch", "none"]

# Multiples of 8: the widths that CPU convolution kernels are blocked for.
_WIDTHS = {
    "cnn_xxs": (8, 8, 16, 24),  # 5.6 thousand parameters with 10 classes
    "cnn_xs": (8, 16, 24, 40),  # 14 thousand
    "cnn_s": (16, 24, 48, 80),  # 50 thousand
    "cnn_m": (32, 48, 96, 160),  # 197 thousand
}


@final
class CNN(TappedModel):
    """A stem and three stages, each one 3×3 convolution, of stride 2 but for the first stage.

    ``norm="none"`` leaves batch normalisation out, so that a sample's output does not depend on
    which other samples share its worker: runs on any number of workers can be compared exactly.
    """

    taps = ("stem", "stage1", "stage2", "stage3", POOLED)

    def __init__(
        self, *, widths: tuple[int, int, int, int], num_classes: int, in_channels: int, norm: Norm
    ) -> None:
        super().__init__()
        # Halving first makes a step on a CPU twice as fast as halving in the first stage.
        self.stem = _layer(in_channels, widths[0], stride=2, norm=norm)
        self.stage1 = _layer(widths[0], widths[1], stride=1, norm=norm)
        self.stage2 = _layer(widths[1], widths[2], stride=2, norm=norm)
        self.stage3 = _layer(widths[2], widths[3], stride=2, norm=norm)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

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


def _layer(in_width: int, width: int, *, stride: int, norm: Norm) -> nn.Sequential:
    bare = norm == "none"
    convolution = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=bare)
    between = () if bare else (nn.BatchNorm2d(width),)
    return nn.Sequential(convolution, *between, nn.ReLU(inplace=True))


def build(arch: str, *, num_classes: int, in_channels: int, norm: Norm = "batch") -> CNN:
    """The network called ``cnn_xxs``, ``cnn_xs``, ``cnn_s`` or ``cnn_m``."""
    return CNN(widths=_WIDTHS[arch], num_classes=num_classes, in_channels=in_channels, norm=norm)
