"""The registry of methods: one file each in this folder, with its ``Config`` and its ``Method``.

A user's own method is such a file elsewhere, called by its module's name: ``package.module``.
Importing a method's file does not import torch, so configurations are checked in milliseconds.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.util import find_spec

from distill.methods.base import Method, MethodConfig
from distill.user_code import is_module, load_module

__all__ = ["Method", "MethodConfig", "config_class", "method_names"]


@cache
def method_names() -> tuple[str, ...]:
    """Every method there is: the names of this folder's files."""
    return tuple(
        sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    )


def config_class(name: str) -> type[MethodConfig]:
    """The ``Config`` of a method: of this folder, or of a user's module.

    Raises ValueError that lists the methods, near misses first, for a name that is neither, and
    for a module that cannot be imported or has no ``Config``.
    """
    if name in method_names():
        return importlib.import_module(f"{__name__}.{name}").Config
    if not is_module(name) or ("." not in name and find_spec(name) is None):
        near = difflib.get_close_matches(name, method_names(), n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
        raise ValueError(
            f"unknown method '{name}'{hint} methods: {', '.join(method_names())}; or the name of a "
            "module of your own, whose folder is on PYTHONPATH"
        )
    config = getattr(load_module(name, asked=name), "Config", None)
    if not isinstance(config, type) or not issubclass(config, MethodConfig):
        raise ValueError(
            f"method '{name}': its module has no Config that is a distill.methods.MethodConfig; "
            "write one as those of distill/methods/ are"
        )
    return config
