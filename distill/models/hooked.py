"""Any network as a TappedModel: taps are its modules' outputs, read by forward hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from distill.models.base import TappedModel, modules_by_path
from distill.models.catalog import POOLED, suggest
from distill.signals import ModelOutput


@final
class HookedModel(TappedModel):
    """``network`` with taps by module path (``layer3``, ``features.4``).

    ``pooled`` is the input of ``head``, the path of the last linear layer; a network without one
    has no ``pooled``. ``native`` taps are features that the network returns itself, in a
    ModelOutput. A module that runs more than once gives its last output.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        head: str | None,
        taps: Sequence[str],
        native: Sequence[str] = (),
    ) -> None:
        """Raise ValueError, with near misses, for a tap that is no module of ``network``."""
        super().__init__()
        self.network = network
        self.name = name
        own = (*native, POOLED) if head is not None else tuple(native)
        paths = tuple(dict.fromkeys(tap for tap in taps if tap not in own))
        modules = modules_by_path(network).keys() - {""}
        for path in paths:
            if path not in modules:
                hint = suggest(path, sorted({*modules, *own}), label="taps")
                raise ValueError(f"'{name}' has no tap '{path}'; {hint}")
        self._paths = paths
        self._head = head
        self.taps = (*paths, *dict.fromkeys(own))

    @property
    def classifier(self) -> nn.Linear:
        if self._head is None:
            raise ValueError(f"'{self.name}' does not end in a linear layer of one row a class")
        linear = self.network.get_submodule(self._head)
        assert isinstance(linear, nn.Linear)
        return linear

    def forward(self, images: Float[Tensor, "B c h w"]) -> ModelOutput:
        captured: dict[str, Tensor] = {}
        # Hooks live for one forward only: the model stays picklable and holds on to no activations.
        hooks = [
            self.network.get_submodule(path).register_forward_hook(
                partial(_capture_output, captured, self.name, path)
            )
            for path in self._paths
        ]
        if self._head is not None:
            capture = partial(_capture_input, captured)
            hooks.append(self.classifier.register_forward_pre_hook(capture))
        try:
            output = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        if isinstance(output, ModelOutput):
            return ModelOutput(output.logits, self._in_order({**captured, **output.features}))
        return ModelOutput(output, self._in_order(captured))

    def _in_order(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for tap in self.taps:
            if tap not in features:
                raise ValueError(f"'{self.name}' never ran '{tap}': tap a module that it calls")
        return {tap: features[tap] for tap in self.taps}


def _capture_output(
    captured: dict[str, Tensor],
    name: str,
    path: str,
    _module: nn.Module,
    _inputs: tuple[object, ...],
    output: object,
) -> None:
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise ValueError(f"tap '{path}' of '{name}' gives a {kind}, not one tensor; tap another")
    # A copy: the next module may be a ReLU that works in place.
    captured[path] = output.clone()


def _capture_input(
    captured: dict[str, Tensor], _module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    captured[POOLED] = inputs[0]


def find_head(network: nn.Module, *, num_classes: int) -> str | None:
    """The path of the last linear layer with ``num_classes`` rows, or None."""
    heads = [
        path
        for path, module in modules_by_path(network).items()
        if isinstance(module, nn.Linear) and module.out_features == num_classes
    ]
    return heads[-1] if heads else None
