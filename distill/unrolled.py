"""SGD as a differentiable function, for exact derivatives through the steps it takes.

MMKD's meta-gradient is the derivative of a loss after a few steps with respect to what the steps'
losses depend on. The update is that of ``torch.optim.SGD`` (dampening 0), heavy-ball or Nesterov.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float
    from torch import Tensor

    LossOf = Callable[[Mapping[str, Tensor]], Float[Tensor, ""]]


@final
@dataclass(frozen=True, slots=True)
class Unrolled:
    """Where the virtual steps led: every tensor is a function of what the losses depended on."""

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]  # momentum
    losses: tuple[Tensor, ...]  # before each step


def unroll_sgd(
    losses: Sequence[LossOf],
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    clip_norm: float | None = None,
) -> Unrolled:
    """Take one virtual SGD step on each of ``losses`` in turn, from copies of the parameters.

    A loss maps named parameters to a scalar. A parameter that it does not use has gradient 0, so
    that momentum and decay still move it; a missing momentum buffer is 0, as before SGD's first
    step. ``clip_norm`` scales all gradients together down to that norm, as training does.
    Neither the given tensors nor their ``grad`` change.
    Raises ValueError for Nesterov without momentum, and for a buffer that is no parameter's.
    Source: Sutskever et al. 2013 for the momenta; exact second order as in MAML (1703.03400).
    """
    if nesterov and momentum <= 0:
        raise ValueError(f"momentum {momentum}: Nesterov's step needs one above 0")
    if strangers := sorted(set(buffers) - set(parameters)):
        raise ValueError(f"momentum buffers of no parameter: {', '.join(strangers)}")
    current = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    moving = {
        name: buffers[name].detach() if name in buffers else torch.zeros_like(value)
        for name, value in current.items()
    }
    seen: list[Tensor] = []
    for loss_of in losses:
        loss = loss_of(current)
        grads = torch.autograd.grad(
            loss,
            list(current.values()),
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        seen.append(loss)
        if clip_norm is not None:
            grads = _clipped(grads, clip_norm)
        for (name, value), grad in zip(list(current.items()), grads, strict=True):
            decayed = grad + weight_decay * value
            moving[name] = momentum * moving[name] + decayed
            step = decayed + momentum * moving[name] if nesterov else moving[name]
            current[name] = value - lr * step
    return Unrolled(current, moving, tuple(seen))


def _clipped(grads: Sequence[Tensor], clip_norm: float) -> list[Tensor]:
    """As ``torch.nn.utils.clip_grad_norm_``, differentiable."""
    norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
    factor = clip_norm / (norm + 1e-6)
    # A branch, not a minimum: the root's infinite slope at zero must not meet a factor of 0.
    return [grad * factor for grad in grads] if factor < 1 else [*grads]
