"""Search spaces: one file a space, with ``SPACE``: dotted configuration paths to Tune's domains.

A value that is no domain is set as it is, before the others: ``"method": "amtml"`` makes a space of
one method's settings fit any experiment. Hint groups and other lists of lists are string keys: some
searchers cannot choose between nested lists.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.loading import ConfigError


def space_names() -> tuple[str, ...]:
    """Every shipped space: the names of this folder's files."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load_space(source: str) -> Mapping[str, Any]:
    """A shipped space by name, or that of a ``.py`` file, which is run. Raises ConfigError."""
    if source in space_names():
        return importlib.import_module(f"{__name__}.{source}").SPACE
    file = Path(source)
    if file.suffix != ".py" or not file.is_file():
        near = difflib.get_close_matches(source, space_names(), n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
        raise ConfigError(
            f"space: no shipped space '{source}', and no .py file of that name{hint} "
            f"shipped: {', '.join(space_names())}"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Mapping):
        raise ConfigError(f"space: '{source}' has no SPACE; write SPACE = {{'method.alpha': …}}")
    return space  # pyright: ignore[reportUnknownVariableType]
