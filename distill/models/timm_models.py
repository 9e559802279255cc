"""timm's image classifiers as ``timm/NAME``, without pretrained weights and without downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from distill.models.catalog import TIMM, check_installed
from distill.models.hooked import HookedModel, find_head
from distill.models.user import probe


def build(
    arch: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    options: Mapping[str, object],
    taps: Sequence[str],
) -> HookedModel:
    """The classifier NAME of ``timm/NAME``; ``options`` go to ``timm.create_model``.

    ``taps`` are module paths; ``pooled`` is what the last linear layer sees. Raises ValueError for
    an unknown name, with near misses, for an option or a size of images that it does not take, an
    unknown tap, and where timm is not installed.
    """
    check_installed(arch)
    timm: Any = import_module("timm")
    name = arch.removeprefix(TIMM)
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise ValueError(f"timm has no classifier '{name}'; {hint}")
    # Transformers are built for one size of image.
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    arguments = {**({"img_size": image_size} if fixed else {}), **options}
    try:
        network = timm.create_model(
            name,
            # Named, so that no option can ask for a download or for a file that is unpickled.
            pretrained=False,
            checkpoint_path="",
            num_classes=num_classes,
            in_chans=in_channels,
            **arguments,
        )
    except Exception as error:  # each of its functions fails in its own way
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"'{arch}' cannot be built with ({given}): {error}") from error
    native = probe(arch, network, num_classes, (1, in_channels, image_size, image_size))
    head = find_head(network, num_classes=num_classes)
    return HookedModel(network, name=arch, head=head, taps=taps, native=native)
