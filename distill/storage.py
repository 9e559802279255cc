"""Where files go that no setting gives a place.

``TUTELAGE_STORAGE`` names a folder that every node of a cluster sees; without it, and on one
machine, runs go to ``runs`` here and everything else to the user's cache. ``TUTELAGE_CACHE`` moves
the cache alone, ``TUTELAGE_SIGNALS`` the records alone, to a folder or a URL.
"""

from __future__ import annotations

import os
from pathlib import Path

STORAGE, CACHE, SIGNALS = "TUTELAGE_STORAGE", "TUTELAGE_CACHE", "TUTELAGE_SIGNALS"


def runs_folder() -> Path:
    """Of all experiments' runs."""
    return Path(os.environ.get(STORAGE, "")).expanduser() / "runs"


def cache_folder() -> Path:
    """Of decoded data, teachers that were trained, and records."""
    storage = os.environ.get(STORAGE)
    if storage and not os.environ.get(CACHE):
        return Path(storage).expanduser() / "cache"
    return own_cache()


def signals_root() -> str:
    """Of records; empty for the cache's own folder of them."""
    return os.environ.get(SIGNALS, "")


def own_cache() -> Path:
    """Of what a node keeps for itself: copies of remote records."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tutelage"
