"""MobileNetV2 (Sandler et al. 2018) at half width, for small images.

Names and shapes of the state dict are those of the checkpoints published with CRD (Tian et al.
2020, RepDistiller), but for ``classifier.0``, a Sequential of one layer, which is ``classifier``
here. As there, the first convolution halves the image, the second group of blocks does not, and
the last convolution keeps its 1280 channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, global_pool, init_convolutions
from distill.models.catalog import FINAL, POOLED
from distill.signals import ModelOutput

_STEM = 16
_LAST = 1280
_GROUPS = (  # expansion, channels at half width, blocks, stride of the first block
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
_STAGE_ENDS = (1, 2, 4, 6)  # the groups after which a stage's feature is tapped


@final
class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise and linear 1×1 projection, with a shortcut if shapes allow."""

    def __init__(self, in_width: int, width: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_width * expansion
        self.has_shortcut = stride == 1 and in_width == width
        self.conv = nn.Sequential(
            nn.Conv2d(in_width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d i j"]:
        out = self.conv(x)
        return x + out if self.has_shortcut else out


@final
class MobileNetV2(TappedModel):
    """A stem, seven groups of inverted residuals in four stages, and a 1×1 convolution.

    A stage's feature is its linear bottleneck: there is no ReLU after it.
    """

    taps = ("stem", "stage1", "stage2", "stage3", "stage4", FINAL, POOLED)
    published_prefixes: Mapping[str, str] = {"classifier.0.": "classifier."}

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, _STEM, kernel=3, stride=2)
        inputs = (_STEM, *(width for _, width, _, _ in _GROUPS[:-1]))
        self.blocks = nn.Sequential(
            *(_group(width, *group) for width, group in zip(inputs, _GROUPS, strict=True))
        )
        self.conv2 = _convolution(_GROUPS[-1][1], _LAST, kernel=1, stride=1)
        # The property has this name too: set where nn.Module keeps it.
        self._modules["classifier"] = nn.Linear(_LAST, num_classes)
        init_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def classifier(self) -> nn.Linear:
        linear = self._modules["classifier"]
        assert isinstance(linear, nn.Linear)
        return linear

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        x = self.conv1(images)
        features = [x]
        for index, group in enumerate(self.blocks):
            x = group(x)
            if index in _STAGE_ENDS:
                features.append(x)
        final = self.conv2(x)
        pooled = global_pool(final)
        features += [final, pooled]
        return ModelOutput(self.classifier(pooled), dict(zip(self.taps, features, strict=True)))


def _convolution(in_width: int, width: int, *, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, width, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _group(in_width: int, expansion: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = InvertedResidual(in_width, width, stride=stride, expansion=expansion)
    rest = (
        InvertedResidual(width, width, stride=1, expansion=expansion) for _ in range(blocks - 1)
    )
    return nn.Sequential(first, *rest)


def build(arch: str, *, num_classes: int, in_channels: int) -> MobileNetV2:
    """The network called ``mobilenetv2``."""
    assert arch == "mobilenetv2"
    return MobileNetV2(num_classes=num_classes, in_channels=in_channels)
