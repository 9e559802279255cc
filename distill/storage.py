"""Where files go that no setting gives a place.

``TUTELAGE_STORAGE`` names a folder that every node of a cluster sees; without it, and on one
machine, runs go to ``runs`` here and everything else to the user's cache. ``TUTELAGE_CACHE`` moves
the cache alone, ``TUTELAGE_SIGNALS`` the records alone, to a folder or a URL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

STORAGE, CACHE, SIGNALS = "TUTELAGE_STORAGE", "TUTELAGE_CACHE", "TUTELAGE_SIGNALS"


def anchored(path: Path) -> Path:
    """Absolute, ``~`` the user's home: one place, also for processes that begin elsewhere."""
    return path.expanduser().absolute()


def anchored_root(root: str) -> str:
    """A folder anchored; a URL, or nothing, as it is."""
    return str(anchored(Path(root))) if root and "://" not in root else root


HomePath = Annotated[Path, AfterValidator(Path.expanduser)]
AnchoredPath = Annotated[Path, AfterValidator(anchored)]  # a setting's, when it is read
AnchoredRoot = Annotated[str, AfterValidator(anchored_root)]


def runs_folder() -> Path:
    """Of all experiments' runs."""
    return Path(os.environ.get(STORAGE, "")).expanduser() / "runs"


def cache_folder() -> Path:
    """Of decoded data, teachers that were trained, and records."""
    storage = os.environ.get(STORAGE)
    if storage and not os.environ.get(CACHE):
        return anchored(Path(storage)) / "cache"
    return own_cache()


def signals_root() -> str:
    """Of records; empty for the cache's own folder of them."""
    return anchored_root(os.environ.get(SIGNALS, ""))


def own_cache() -> Path:
    """Of what a node keeps for itself: copies of remote records."""
    named = os.environ.get(CACHE)
    return anchored(Path(named)) if named else Path.home() / ".cache" / "tutelage"
