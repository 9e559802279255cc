"""Arithmetic that mixed precision must not narrow.

A loss on relations is made of differences of nearly equal numbers, of which bfloat16 leaves little.

Legend: B samples, n features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def widened(values: Tensor) -> Tensor:
    """Half-precision numbers as float32; others as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def gram(rows: Float[Tensor, "B n"]) -> Float[Tensor, "B B"]:
    """Every row's product with every row, in float32 or wider, under autocast too."""
    rows = widened(rows)
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ rows.T
