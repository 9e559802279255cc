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
from orchestrator.locks import LOCK_FILE, RecordingLock
from orchestrator.retention import CONSUMERS, has_consumers

MIN_PREFIX = 4  # digits of a key that stand for it


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
    last_used_s: float  # since the epoch: when somebody last recorded here, or began to read


def list_recordings(root: Path) -> list[RecordingSummary]:
    """Every teacher that ``root`` holds recordings of, by key; none if there is no such folder.

    Raises ValueError naming an ``identity.json`` that cannot be read.
    """
    found = ((key, read_identity(root, key)) for key in teacher_keys(root))
    return [_summary(root / key, identity) for key, identity in found if identity]


def resolve_key(root: Path, text: str) -> str:
    """The key that begins with ``text``, of at least 4 digits.

    Raises ValueError, naming the keys there are, unless it is one alone.
    """
    keys = teacher_keys(root)
    found = [key for key in keys if key.startswith(text)] if len(text) >= MIN_PREFIX else []
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"'{text}' begins {len(found)} keys in {root}: {', '.join(found)}")
    if len(text) < MIN_PREFIX:
        hint = f"; a key's beginning has at least {MIN_PREFIX} digits"
    else:
        likely = difflib.get_close_matches(text, keys, n=1, cutoff=0.5)
        hint = f"; did you mean {likely[0]}?" if likely else ""
    raise ValueError(
        f"no recording '{text}' in {root}; there are: {', '.join(keys) or 'none'}{hint}"
    )


def remove(root: Path, key: str) -> int:
    """Delete a teacher's recordings; returns the bytes that were freed.

    Raises ValueError naming the keys there are, and BlockingIOError while it is recorded or read.
    """
    key = resolve_key(root, key)
    for leftover in root.glob(f"{REMOVED_PREFIX}*"):  # of a removal that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with RecordingLock(root / key):
        if has_consumers(root / key):
            raise BlockingIOError(
                f"{root / key}: a process reads its records here; wait until it has ended, "
                "or end it"
            )
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
    used_s = max(map(_changed_s, (folder, folder / LOCK_FILE, folder / CONSUMERS)))
    return RecordingSummary(folder.name, identity, tuple(columns), tree_bytes(folder), used_s)


def _changed_s(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
