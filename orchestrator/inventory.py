"""What a store's root holds, for listings and for cleaning up."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from distill.signals import SignalSpec
from orchestrator.consumers import CONSUMERS
from orchestrator.identity import Identity
from orchestrator.layout import (
    REMOVED_PREFIX,
    FileInfo,
    column_name,
    columns_named,
    is_key,
    num_bytes,
    parts_named,
)
from orchestrator.locks import LOCK_FILE
from orchestrator.mirror import Mirror, place_of
from orchestrator.places import Place

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


def list_recordings(root: Path | Mirror) -> list[RecordingSummary]:
    """Every teacher that ``root`` holds recordings of, by key; none if there is no such folder.

    Raises StoreError naming an ``identity.json`` that cannot be read.
    """
    place = place_of(root)
    found = ((key, place.identity(key), files) for key, files in _by_key(place).items())
    return [_summary(place, key, identity, files) for key, identity, files in found if identity]


def resolve_key(root: Path | Mirror, text: str) -> str:
    """The key that begins with ``text``, of at least 4 digits.

    Raises ValueError, naming the keys there are, unless it is one alone.
    """
    keys = list(_by_key(place_of(root)))
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


def remove(root: Path | Mirror, key: str) -> int:
    """Delete a teacher's recordings; returns the bytes that were freed.

    Raises ValueError naming the keys there are, and BlockingIOError while it is recorded or read.
    """
    place, key = place_of(root), resolve_key(root, key)
    folder = place.root / key
    for leftover in place.root.glob(f"{REMOVED_PREFIX}*"):  # of a removal that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    consumers = place.consumers(key)
    with place.lock(key), consumers.alone():
        if consumers.is_anybody():
            raise BlockingIOError(
                f"{place.shown(folder)}: a process reads its records here; wait until it has "
                "ended, or end it"
            )
        freed = num_bytes(place.files(folder))
        place.remove(folder)
    return freed


def _by_key(place: Place) -> dict[str, dict[str, FileInfo]]:
    """A place's files by teacher, sorted, and then by name in the teacher's folder."""
    found: dict[str, dict[str, FileInfo]] = {}
    for name, info in sorted(place.files(place.root).items()):
        key, _, rest = name.partition("/")
        if rest and is_key(key):
            found.setdefault(key, {})[rest] = info
    return found


def _summary(
    place: Place, key: str, identity: Identity, files: Mapping[str, FileInfo]
) -> RecordingSummary:
    columns: list[ColumnSummary] = []
    for spec, codec in columns_named({name.split("/")[0] for name in files if "/" in name}):
        prefix = f"{column_name(spec, codec)}/"
        own = {n.removeprefix(prefix): info for n, info in files.items() if n.startswith(prefix)}
        every = set(range(identity.num_parts))
        passes = (p for p, parts in parts_named(own).items() if parts >= every)
        columns.append(ColumnSummary(spec, codec, tuple(sorted(passes)), num_bytes(own)))
    folder = place.root / key
    used_s = max(map(_changed_s, (folder, folder / LOCK_FILE, folder / CONSUMERS)))
    used_s = max(used_s, *(info.changed_s for info in files.values()))
    return RecordingSummary(key, identity, tuple(columns), num_bytes(files), used_s)


def _changed_s(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
