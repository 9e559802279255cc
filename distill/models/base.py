"""What every network of the zoo is: a classifier that hands out its features by tap.

Legend: B samples, C classes, c channels, h height, w width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from distill.signals import LOGITS, ModelOutput


class TappedModel(nn.Module, ABC):
    """An image classifier that returns its logits and, by tap, the features behind them.

    Features are those after a stage's last ReLU; ``pooled`` is the vector [B, c] that the
    classifier sees. ``taps`` names the features in the order from the image to the classifier.
    """

    taps: tuple[str, ...]
    # Prefixes of names in published checkpoints that differ from ours, and ours.
    published_prefixes: Mapping[str, str] = {}

    @abstractmethod
    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        """Logits [B, C] and features by tap of normalised images."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Linear:
        """The last linear layer: from the ``pooled`` vector to the logits."""


@final
class Normalized(nn.Module):
    """A network behind its own normalisation: takes images as they are stored, uint8 in 0..255."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: TappedModel, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """``mean`` and ``std`` are of pixels in 0..1, one number a channel; no std may be 0."""
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean {list(mean)} and std {list(std)} must match, with std above 0")
        self.network = network
        # Not persistent: a checkpoint holds the network's weights, whatever data it meets next.
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.get_default_dtype()).view(1, -1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, images: UInt8[Tensor, "B c h w"]) -> ModelOutput:
        """The network's output for ``(images / 255 - mean) / std``, in the buffers' dtype."""
        # One fused multiply-add reads the batch once, where three operations read it three times.
        scale = 1 / (255 * self.std)
        return self.network(torch.addcmul(-self.mean / self.std, images.to(self.mean.dtype), scale))


def global_pool(features: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c"]:
    """The mean over positions, for maps of any size."""
    return F.adaptive_avg_pool2d(features, 1).flatten(1)


def init_convolutions(network: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (k² · out)), biases 0 (He et al. 2015, backward form).

    The published networks start so; batch normalisation starts at 1 and 0 by default.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def modules_by_path(network: nn.Module) -> dict[str, nn.Module]:
    """Every module by its path in ``network``, which itself has the path ''."""
    return dict(cast("Iterable[tuple[str, nn.Module]]", network.named_modules()))


@contextmanager
def evaluating(network: nn.Module) -> Generator[None]:
    """Eval mode and no gradients inside; every module's mode is as before afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def feature_shapes(
    model: TappedModel | Normalized, in_channels: int, image_size: int
) -> dict[str, tuple[int, ...]]:
    """The shape of one sample's ``logits`` and of its feature at each tap.

    One forward of a black image in eval mode: BatchNorm's statistics stay as they are.
    """
    first = next(model.parameters())
    dtype = torch.uint8 if isinstance(model, Normalized) else first.dtype
    size = (1, in_channels, image_size, image_size)
    with evaluating(model):
        output = model(torch.zeros(size, dtype=dtype, device=first.device))
    shapes = {tap: tuple(feature.shape[1:]) for tap, feature in output.features.items()}
    return {**shapes, LOGITS: tuple(output.logits.shape[1:])}
