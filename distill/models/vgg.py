"""VGG with batch normalisation and one linear layer (Simonyan & Zisserman 2015), for small images.

Names and shapes of the state dict are those of the checkpoints published with CRD (Tian et al.
2020, RepDistiller). Unlike the network for ImageNet it halves a 32-pixel image three times only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, global_pool, init_convolutions
from distill.models.catalog import POOLED
from distill.signals import ModelOutput

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {  # in each of the five blocks
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_LARGE = 64  # pixels from which the fourth halving takes place, as in the published code


@final
class VGG(TappedModel):
    """Five blocks of 3×3 convolutions with max-pooling between; the first block is the stem."""

    taps = ("stem", "stage1", "stage2", "stage3", "stage4", POOLED)

    def __init__(self, *, convolutions: Sequence[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        inputs = (in_channels, *_WIDTHS[:-1])
        blocks = [_block(*sizes) for sizes in zip(inputs, _WIDTHS, convolutions, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        # Under its published name, which is that of the property: set where nn.Module keeps it.
        self._modules["classifier"] = nn.Linear(_WIDTHS[-1], num_classes)
        init_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def classifier(self) -> nn.Linear:
        linear = self._modules["classifier"]
        assert isinstance(linear, nn.Linear)
        return linear

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        stem = F.relu(self.block0(images))
        stage1 = F.relu(self.block1(F.max_pool2d(stem, 2)))
        stage2 = F.relu(self.block2(F.max_pool2d(stage1, 2)))
        stage3 = F.relu(self.block3(F.max_pool2d(stage2, 2)))
        large = images.shape[-1] >= _LARGE
        stage4 = F.relu(self.block4(F.max_pool2d(stage3, 2) if large else stage3))
        pooled = global_pool(stage4)
        features = (stem, stage1, stage2, stage3, stage4, pooled)
        return ModelOutput(self.classifier(pooled), dict(zip(self.taps, features, strict=True)))


def _block(in_width: int, width: int, convolutions: int) -> nn.Sequential:
    """Convolution, BN and ReLU, repeated; the last ReLU is the caller's, as in the checkpoints."""
    layers: list[nn.Module] = []
    for index in range(convolutions):
        layers.append(nn.Conv2d(in_width if index == 0 else width, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def build(arch: str, *, num_classes: int, in_channels: int) -> VGG:
    """The network called ``vggDEPTH``."""
    return VGG(convolutions=_CONVOLUTIONS[arch], num_classes=num_classes, in_channels=in_channels)
