"""Holds on folders: what any process of this node holds is not evicted, nor held by one alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.layout import remove_tree


@contextmanager
def hold(folder: Path, *, alone: bool = False) -> Generator[None]:
    """Make a folder, and keep it from being evicted meanwhile, by nobody else where ``alone``.

    Waits for those who hold it otherwise. The kernel holds the lock on the folder itself, and lets
    go when the process ends.
    """
    descriptor = _open_locked(folder, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)


def evict(folder: Path) -> bool:
    """Delete a folder unless somebody holds it; whether it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_same(descriptor, folder):  # removed and made anew since it was opened
            return False
        remove_tree(folder)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _open_locked(folder: Path, kind: int) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # evicted since the line above
            continue
        fcntl.flock(descriptor, kind)
        if _is_same(descriptor, folder):
            return descriptor
        os.close(descriptor)


def _is_same(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False
