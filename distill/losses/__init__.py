"""Losses of the distillation literature as pure functions, one value a sample; methods reduce.

Importing this package does not import torch; the first use of one of its names does, so that a
method's configuration can be read and refused in milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.losses.adaptation import (
        blend_weights,
        blended_logits,
        stepped_weight,
        weight_drift,
    )
    from distill.losses.divergence import (
        cross_entropy,
        decoupled_divergence,
        divergence_from_log_probs,
        entropy,
        kl_divergence,
        mixture_log_probs,
    )
    from distill.losses.feature import (
        attention_like,
        attention_map,
        mean_squared_error,
        normalise_channels,
        pool_to_smaller,
        pooled_logits,
        pooled_vector,
    )
    from distill.losses.relation import (
        angle_loss,
        probabilistic_transfer,
        relational_loss,
        relations,
        similarities,
        similarity_preserving,
    )
    from distill.losses.weighting import (
        agreement_weights,
        capped_simplex_minimum,
        confidence_weights,
        entropy_weights,
    )

__all__ = [
    "agreement_weights",
    "angle_loss",
    "attention_like",
    "attention_map",
    "blend_weights",
    "blended_logits",
    "capped_simplex_minimum",
    "confidence_weights",
    "cross_entropy",
    "decoupled_divergence",
    "divergence_from_log_probs",
    "entropy",
    "entropy_weights",
    "kl_divergence",
    "mean_squared_error",
    "mixture_log_probs",
    "normalise_channels",
    "pool_to_smaller",
    "pooled_logits",
    "pooled_vector",
    "probabilistic_transfer",
    "relational_loss",
    "relations",
    "similarities",
    "similarity_preserving",
    "stepped_weight",
    "weight_drift",
]

_HOMES = {
    "adaptation": ("blend_weights", "blended_logits", "stepped_weight", "weight_drift"),
    "divergence": (
        "cross_entropy",
        "decoupled_divergence",
        "divergence_from_log_probs",
        "entropy",
        "kl_divergence",
        "mixture_log_probs",
    ),
    "feature": (
        "attention_like",
        "attention_map",
        "mean_squared_error",
        "normalise_channels",
        "pool_to_smaller",
        "pooled_logits",
        "pooled_vector",
    ),
    "relation": (
        "angle_loss",
        "probabilistic_transfer",
        "relational_loss",
        "relations",
        "similarities",
        "similarity_preserving",
    ),
    "weighting": (
        "agreement_weights",
        "capped_simplex_minimum",
        "confidence_weights",
        "entropy_weights",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next look-up is a plain attribute
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
