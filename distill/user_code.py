"""Users' own code by name: ``package.module:function``, and modules.

Importing this module runs none of it, and does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from distill.models.catalog import USER_FUNCTION, suggest

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_function(name: str) -> bool:
    """Whether ``name`` is written as ``package.module:function``."""
    return USER_FUNCTION.fullmatch(name) is not None


def is_module(name: str) -> bool:
    """Whether ``name`` is written as a module's, with or without a package."""
    return _MODULE.fullmatch(name) is not None


def load_module(name: str, *, asked: str) -> ModuleType:
    """Import a user's module. Raises ValueError that quotes ``asked`` where there is none."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"'{asked}' cannot be imported: {error}") from error
        fix = "install it or put its folder on PYTHONPATH"
        raise ValueError(f"'{asked}': there is no module '{error.name}'; {fix}") from error
    except Exception as error:  # a user's module may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"'{asked}' cannot be imported: {reason}") from error


def load_function(name: str) -> Callable[..., object]:
    """What ``package.module:function`` names.

    Raises ValueError, with near misses, where it cannot be imported.
    """
    module_name, _, function_name = name.partition(":")
    module = load_module(module_name, asked=name)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value)]
        hint = suggest(function_name, names, label="it has")
        raise ValueError(f"'{name}': '{module_name}' has no function '{function_name}'; {hint}")
    return function
