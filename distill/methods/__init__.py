"""The registry of methods: one file each in this folder, with its ``Config`` and its ``Method``.

Importing a method's file does not import torch, so configurations are checked in milliseconds.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from distill.methods.base import Method, MethodConfig

__all__ = ["Method", "MethodConfig", "config_class", "method_names"]


@cache
def method_names() -> tuple[str, ...]:
    """Every method there is: the names of this folder's files."""
    return tuple(
        sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    )


def config_class(name: str) -> type[MethodConfig]:
    """The ``Config`` of a method. Raises ValueError that lists the methods, near misses first."""
    if name not in method_names():
        near = difflib.get_close_matches(name, method_names(), n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
        raise ValueError(f"unknown method '{name}'{hint} methods: {', '.join(method_names())}")
    config: type[MethodConfig] = importlib.import_module(f"{__name__}.{name}").Config
    return config
