"""A teacher that is trained, and the weights that it is anchored to.

Legend: B samples, c channels, h height, w width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import nn

from distill.losses.adaptation import weight_drift

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

    from distill.models.base import Normalized
    from distill.signals import ModelOutput


@final
class AnchoredTeacher(nn.Module):
    """ATSC's teacher: it is trained, and knows the weights W⁰ that it began with.

    It is in training mode. W⁰ is not saved: a teacher is built from its own weights before those of
    a checkpoint are loaded into it.
    Source: Jang et al. 2024, Adaptive Teaching with Shared Classifier (arXiv 2406.08528).
    """

    def __init__(self, model: Normalized, *, vectors: bool = False) -> None:
        """``vectors``: anchor BatchNorm's scales and shifts and biases, too (not the authors')."""
        super().__init__()
        # With statistics that stand still, weights that move by half a percent already spoil every
        # later layer's, and the features collapse: no penalty is on BatchNorm's scales.
        self.model = model.train().requires_grad_(True)
        apart = set(self.classifier.parameters())
        self._moving = [
            name
            for name, value in model.named_parameters()
            if (vectors or value.ndim > 1) and value not in apart
        ]
        for index, name in enumerate(self._moving):
            initial = model.get_parameter(name).detach().clone()
            self.register_buffer(f"initial{index}", initial, persistent=False)

    @property
    def classifier(self) -> nn.Linear:
        """Its last layer, which the student shares."""
        return self.model.network.classifier

    def forward(self, images: UInt8[Tensor, "B c h w"]) -> ModelOutput:
        return self.model(images)

    def squared_drift(self) -> Float[Tensor, ""]:
        """Σ‖W − W⁰‖² over the anchored weights, the classifier's excepted."""
        return weight_drift(self._weights(), self._initial())

    def relative_drift(self) -> float:
        """‖W − W⁰‖/‖W⁰‖ over the same weights."""
        with torch.no_grad():
            size = sum(value.square().sum() for value in self._initial().values())
            return float((self.squared_drift() / size).sqrt())

    def _weights(self) -> dict[str, Tensor]:
        return {name: self.model.get_parameter(name) for name in self._moving}

    def _initial(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"initial{index}") for index, name in enumerate(self._moving)}
