"""Tutelage: distil one small student from many large teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.api import ConfigError, Experiment, Run, load_experiment, runs, train

__all__ = ["ConfigError", "Experiment", "Run", "load_experiment", "runs", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'distill' has no attribute '{name}'")
    # Not sooner: modules of this package import it, and few of its users need all of these.
    from distill import api

    return getattr(api, name)
