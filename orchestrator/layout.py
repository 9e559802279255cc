"""Names of a store's files and folders. Whatever bears no such name is not part of the store.

    ROOT/<teacher key>/identity.json
    ROOT/<teacher key>/<spec>.<codec>/pass-00003/part-00007.arrow

Names are made from numbers and checked names, and read back by pattern: none leads elsewhere.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from distill.signals import SignalSpec
from orchestrator.identity import KEY_LENGTH, Identity

IDENTITY_FILE = "identity.json"
REMOVED_PREFIX = ".removed-"
MAX_PASSES = 100_000  # five digits
_MAX_IDENTITY_BYTES = 1 << 20

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_PASS = re.compile(r"pass-(\d{5})", re.ASCII)
_PART = re.compile(r"part-(\d{5})\.arrow", re.ASCII)
# 150 characters leave a part's header room for the name, which stands in it twice.
_COLUMN = re.compile(r"(?=.{1,150}$)(\w[\w.-]*(?:@\w+)?)\.([a-z0-9]+(?:-[a-z]+)?)", re.ASCII)


class StoreError(ValueError):
    """Records that are not what they should be, or cannot be kept; the message says what to do."""


def column_name(spec: SignalSpec, codec: str) -> str:
    """``stage3@pool4.float16``. Raises StoreError where the tap's name can be no folder's."""
    name = f"{spec}.{codec}"
    if not _COLUMN.fullmatch(name):
        raise StoreError(
            f"signal '{spec}': no folder can have this name; a tap's name begins with a letter, "
            "has letters, digits, '_', '.' and '-', and is at most 100 characters long"
        )
    return name


def pass_name(pass_index: int) -> str:
    """``pass-00003``. Raises ValueError for a number that no pass can have."""
    if not 0 <= pass_index < MAX_PASSES:
        raise ValueError(f"pass {pass_index}: passes are 0 to {MAX_PASSES - 1}")
    return f"pass-{pass_index:05d}"


def part_name(part_index: int) -> str:
    """``part-00007.arrow``."""
    return f"part-{part_index:05d}.arrow"


class FileInfo(NamedTuple):
    """What a listing says of a file."""

    num_bytes: int
    changed_s: float  # since the epoch


def is_key(name: str) -> bool:
    """Whether a folder of this name in a store's root is a teacher's."""
    return _KEY.fullmatch(name) is not None


def columns_named(names: Iterable[str]) -> list[tuple[SignalSpec, str]]:
    """The (spec, codec's name) of every column, from names of folders; sorted."""
    matches = (_COLUMN.fullmatch(name) for name in names)
    return sorted((SignalSpec.parse(match[1]), match[2]) for match in matches if match)


def passes_in(column: Path) -> list[int]:
    """The passes of which a column's folder holds anything, sorted."""
    matches = (_PASS.fullmatch(entry.name) for entry in _entries(column))
    return sorted(int(match[1]) for match in matches if match)


def parts_in(column: Path, pass_index: int) -> set[int]:
    """The parts of a pass that are there; each is whole, for parts appear by renaming."""
    matches = (_PART.fullmatch(entry.name) for entry in _entries(column / pass_name(pass_index)))
    return {int(match[1]) for match in matches if match}


def parts_named(names: Iterable[str]) -> dict[int, set[int]]:
    """The parts of each pass, from names below a column: ``pass-00003/part-00007.arrow``."""
    parts: dict[int, set[int]] = {}
    for name in names:
        folder, _, file = name.partition("/")
        in_pass, in_part = _PASS.fullmatch(folder), _PART.fullmatch(file)
        if in_pass and in_part:
            parts.setdefault(int(in_pass[1]), set()).add(int(in_part[1]))
    return parts


def read_identity(root: Path, key: str) -> Identity | None:
    """What ``root`` says that ``key`` stands for; None if nothing.

    Raises StoreError naming the file where it holds no identity.
    """
    path = root / key / IDENTITY_FILE
    if not is_key(key) or not path.exists():
        return None
    refuse_links(root, path)
    with path.open("rb") as file:
        return parse_identity(file.read(_MAX_IDENTITY_BYTES + 1), where=str(path))


def refuse_links(root: Path, path: Path, *names: str) -> None:
    """Raise StoreError where ``path``, below ``root``, leads over a link, or one of its ``names``.

    ``root`` itself may be one: whoever named it knows where it leads.
    """
    inner = [path, *path.parents]
    for found in (*inner[: inner.index(root)], *(path / name for name in names)):
        if found.is_symlink():
            raise StoreError(
                f"{found}: is a link, and none is followed in a store; put what it leads to in its "
                "place, or delete it"
            )


def parse_identity(content: bytes, *, where: str) -> Identity:
    """An ``identity.json``. Raises StoreError naming ``where`` unless it is one."""
    try:
        if len(content) > _MAX_IDENTITY_BYTES:
            raise ValueError(f"it has more than {_MAX_IDENTITY_BYTES:,} bytes")
        return Identity.from_json(content.decode())
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{where}: holds no identity ({error}); delete this file: it is written anew by the "
            "next recording"
        ) from error


def files_below(folder: Path) -> dict[str, FileInfo]:
    """Every file below ``folder``, by name relative to it; none if there is no such folder."""
    found: dict[str, FileInfo] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:  # renamed or removed since it was listed
                continue
            found[os.path.relpath(path, folder)] = FileInfo(status.st_size, status.st_mtime)
    return found


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below ``folder``; 0 if there is no such folder."""
    return num_bytes(files_below(folder))


def num_bytes(files: Mapping[str, FileInfo]) -> int:
    """Bytes of a listing's files."""
    return sum(info.num_bytes for info in files.values())


def remove_tree(folder: Path) -> None:
    """Delete a folder, if there is one; it is gone at once for everybody, whatever happens.

    On NFS a file that is mapped keeps its place in a folder, which then cannot be deleted: it is
    left under its new name, to ``SignalStore.remove_leftovers``.
    """
    aside = folder.with_name(f"{REMOVED_PREFIX}{folder.name}-{secrets.token_hex(4)}")
    try:
        folder.replace(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
