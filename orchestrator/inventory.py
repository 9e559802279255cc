"""What a store's root holds, for listings and for cleaning up."""

from __future__ import annotations

import difflib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from distill.signals import SignalSpec
from orchestrator.identity import Identity
from orchestrator.layout import (
    REMOVED_PREFIX,
    column_name,
    columns_in,
    parts_in,
    passes_in,
    read_identity,
    remove_tree,
    teacher_keys,
    tree_bytes,
)
from orchestrator.locks import RecordingLock


@final
@dataclass(frozen=True, slots=True)
class ColumnSummary:
    """One signal in one codec, and the passes that are recorded whole."""

    spec: SignalSpec
    codec: str
    passes: tuple[int, ...]
    num_bytes: int


@final
@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """All that is recorded of one teacher; ``identity.differences`` tells two of them apart."""

    key: str
    identity: Identity
    columns: tuple[ColumnSummary, ...]
    num_bytes: int


def list_recordings(root: Path) -> list[RecordingSummary]:
    """Every teacher that ``root`` holds recordings of, by key; none if there is no such folder.

    Raises ValueError naming an ``identity.json`` that cannot be read.
    """
    found = ((key, read_identity(root, key)) for key in teacher_keys(root))
    return [_summary(root / key, identity) for key, identity in found if identity]


def remove(root: Path, key: str) -> int:
    """Delete a teacher's recordings; returns the bytes that were freed.

    Raises ValueError naming the keys there are, and BlockingIOError while it is being recorded.
    """
    keys = teacher_keys(root)
    if key not in keys:
        likely = difflib.get_close_matches(key, keys, n=1)
        hint = f"; did you mean {likely[0]}?" if likely else ""
        raise ValueError(
            f"no recording '{key}' in {root}; there are: {', '.join(keys) or 'none'}{hint}"
        )
    for leftover in root.glob(f"{REMOVED_PREFIX}*"):  # of a removal that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with RecordingLock(root / key):
        num_bytes = tree_bytes(root / key)
        remove_tree(root / key)
    return num_bytes


def _summary(folder: Path, identity: Identity) -> RecordingSummary:
    columns: list[ColumnSummary] = []
    for spec, codec in columns_in(folder):
        path = folder / column_name(spec, codec)
        every = set(range(identity.num_parts))
        passes = tuple(p for p in passes_in(path) if parts_in(path, p) >= every)
        columns.append(ColumnSummary(spec, codec, passes, tree_bytes(path)))
    return RecordingSummary(folder.name, identity, tuple(columns), tree_bytes(folder))
