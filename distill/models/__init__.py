"""Networks by name: the zoo of the distillation literature, torchvision's, timm's, users' own.

Importing this package does not import torch; building a network does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from distill.models.catalog import (
    TIMM,
    TORCHVISION,
    check_architecture,
    check_options,
    check_taps,
    find,
)

if TYPE_CHECKING:
    from distill.models.base import TappedModel

__all__ = ["build_model"]


def build_model(
    arch: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    options: Mapping[str, object] | None = None,
    taps: Sequence[str] = (),
) -> TappedModel:
    """A fresh network for images [in_channels, image_size, image_size], drawn from torch's RNG.

    ``arch`` is a name of the zoo, ``torchvision/NAME``, ``timm/NAME`` or
    ``package.module:function``; ``options`` go to its builder. ``taps`` are those that will be
    read: a network of the zoo gives all of its own, any other network the named modules' outputs.
    Raises ValueError, with near misses, for an unknown architecture, option or tap.
    """
    check_architecture(arch)
    options = dict(options or {})
    check_options(arch, options)
    check_taps(arch, taps)
    entry = find(arch)
    if entry is not None:
        family = import_module(f"distill.models.{entry.family}")
        return family.build(arch, num_classes=num_classes, in_channels=in_channels, **options)
    if arch.startswith(TORCHVISION):
        from distill.models.torchvision_models import build
    elif arch.startswith(TIMM):
        from distill.models.timm_models import build
    else:
        from distill.models.user import build
    return build(
        arch,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        options=options,
        taps=taps,
    )
