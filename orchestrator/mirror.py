"""A node's copy of a remote store: parts are mapped from it, and come and go with their use.

    FOLDER/<protocol>-<digest of the URL>/<teacher key>/…    laid out as a local store
    FOLDER/.lock, FOLDER/.drafts                             one process of a node downloads at once

The remote is the place of record: what lies in a mirror alone counts as not recorded, and a mirror
can be deleted whenever nobody uses it. Its folder must be on a disk of this node, for file locks
hold on one node.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from orchestrator.consumers import Consumers, RemoteConsumers
from orchestrator.holds import evict, hold
from orchestrator.identity import Identity
from orchestrator.layout import (
    IDENTITY_FILE,
    FileInfo,
    StoreError,
    parse_identity,
    parts_named,
    pass_name,
    remove_tree,
    tree_bytes,
)
from orchestrator.locks import LeaseLock, Lock
from orchestrator.parts import crc32_of, verify_part
from orchestrator.places import LocalPlace, Place, damaged_name
from orchestrator.remote import Remote, open_remote

DOWNLOADS = 8  # parts fetched at a time
_LOCK = ".lock"
_DRAFTS = ".drafts"
_MEND = (
    "`python distill/run.py verify` moves damaged parts aside, and `cache` records what is missing"
)


@final
@dataclass(frozen=True, slots=True)
class Mirror:
    """Where a remote store is, where this node mirrors it, and in how many bytes: a Place.

    Plain data, so that it travels to actors: ``folder`` is the same path on every node.
    ``max_bytes`` bounds the parts in the whole folder, which several URLs may share. Methods raise
    RemoteError.
    """

    url: str
    folder: Path
    max_bytes: int | None = None
    is_local: ClassVar[bool] = False

    @property
    def root(self) -> Path:
        """The mirror of this URL, laid out as a local store."""
        protocol, _, place = self.url.partition("://")
        digest = hashlib.sha256(place.strip("/").encode()).hexdigest()[:12]
        return self.folder / f"{protocol}-{digest}"

    @property
    def remote(self) -> Remote:
        """The place of record."""
        return open_remote(self.url)

    def __str__(self) -> str:
        return self.url

    def shown(self, path: Path) -> str:
        return self.remote.url_of(self._name(path))

    def parts(self, column: Path, passes: Sequence[int]) -> dict[int, set[int]]:
        if len(passes) == 1:  # one listing, of what may be a small share of the column
            name = pass_name(passes[0])
            found = parts_named(f"{name}/{file}" for file in self.files(column / name))
        else:
            found = parts_named(self.files(column))
        return {index: found.get(index, set()) for index in passes}

    def passes(self, column: Path) -> list[int]:
        return sorted(parts_named(self.files(column)))

    def files(self, folder: Path) -> Mapping[str, FileInfo]:
        name = self._name(folder)
        skipped = len(name) + 1 if name else 0
        return {found[skipped:]: info for found, info in self.remote.list(name).items()}

    def identity(self, key: str) -> Identity | None:
        path = self.root / key / IDENTITY_FILE
        content = self.remote.read(self._name(path))
        return None if content is None else parse_identity(content, where=self.shown(path))

    @contextmanager
    def publishing(self, path: Path) -> Generator[None]:
        """Upload what is written at ``path`` meanwhile, and keep to the bound."""
        with hold(path.parent):
            yield
            self.remote.put(path, self._name(path))
            if self.max_bytes is not None:
                with self._locked(fcntl.LOCK_EX):
                    self._make_room(0)

    def publish_small(self, path: Path) -> None:
        if not self.remote.exists(self._name(path)):
            self.remote.put(path, self._name(path))

    @contextmanager
    def opening(self, folder: Path, names: Sequence[str]) -> Generator[None]:
        """Download those of a pass's parts that the mirror lacks, and keep the pass until the end.

        Each part is downloaded once, whoever else asks. Raises StoreError naming the URL of a
        part that is gone or damaged, or the bytes that are needed where they exceed the bound.
        """
        with hold(folder):
            os.utime(folder)  # says when a pass was last opened
            if _lacking(folder, names):
                with self._locked(fcntl.LOCK_EX) as drafts:
                    # Asked again: another process may have fetched them meanwhile.
                    self._fetch(folder, _lacking(folder, names), drafts)
            yield

    @contextmanager
    def original(self, path: Path) -> Generator[Path]:
        """A fresh download; the mirror's own copy, should it be damaged, is deleted."""
        if path.exists() and verify_part(path):
            path.unlink(missing_ok=True)
        with self._locked(fcntl.LOCK_SH) as drafts, self._draft(path, drafts) as draft:
            yield draft

    def quarantine(self, path: Path) -> str:
        name = self._name(path)
        with self._locked(fcntl.LOCK_SH) as drafts, self._draft(path, drafts) as draft:
            aside = damaged_name(name, crc32_of(draft))
        self.remote.move(name, aside)
        path.unlink(missing_ok=True)
        return aside.rpartition("/")[2]

    def remove(self, folder: Path) -> None:
        self.remote.remove(self._name(folder))
        remove_tree(folder)

    def forget_deleted(self, column: Path) -> None:
        copies = list(column.glob("pass-*"))  # before asking: what is new by then is kept
        recorded = set(map(pass_name, self.passes(column))) if copies else set[str]()
        for copy in copies:
            if copy.name not in recorded:
                evict(copy)

    def lock(self, key: str) -> Lock:
        return LeaseLock(self.remote, key)

    def consumers(self, key: str) -> Consumers:
        return RemoteConsumers(self.remote, key)

    def _name(self, path: Path) -> str:
        return "" if path == self.root else path.relative_to(self.root).as_posix()

    @contextmanager
    def _locked(self, kind: int) -> Generator[Path]:
        """Be the one who downloads on this node, or one of those who check; yields a folder."""
        drafts = self.folder / _DRAFTS
        drafts.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, kind)
            if kind == fcntl.LOCK_EX:
                for dead in drafts.iterdir():  # of downloads that were killed
                    dead.unlink()
            yield drafts
        finally:
            os.close(descriptor)

    @contextmanager
    def _draft(self, path: Path, drafts: Path) -> Generator[Path]:
        """A download of the part that ``path`` stands for, deleted in the end."""
        draft = drafts / f"{path.name}.{secrets.token_hex(4)}"
        try:
            self.remote.get(self._name(path), draft)
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _fetch(self, folder: Path, names: Sequence[str], drafts: Path) -> None:
        self.forget_deleted(folder.parent)
        found = self.files(folder)
        if gone := [name for name in names if name not in found]:
            raise StoreError(f"{self.shown(folder / gone[0])}: is not recorded; {_MEND}")
        lacking = sum(found[name].num_bytes for name in names)
        needed = self._make_room(lacking)
        if self.max_bytes is not None and needed > self.max_bytes:
            raise StoreError(
                f"signals.mirror_bytes: {self.max_bytes} is too small: {self.shown(folder)} and "
                f"the passes that are open beside it need {needed} bytes in {self.folder}; set it "
                f"to {needed} or more"
            )
        with ThreadPoolExecutor(DOWNLOADS) as executor:
            tasks = [executor.submit(self._download, folder / name, drafts) for name in names]
        for task in tasks:
            task.result()

    def _download(self, path: Path, drafts: Path) -> None:
        reason = ""
        for _ in range(2):  # damage on the way is mended by fetching again
            with self._draft(path, drafts) as draft:
                damage = verify_part(draft)
                if damage is None:
                    draft.replace(path)
                    return
                reason = damage.reason
        raise StoreError(f"{self.shown(path)}: damaged, and again so: {reason}; {_MEND}")

    def _make_room(self, num_bytes: int) -> int:
        """Evict the passes that were opened longest ago until ``num_bytes`` more fit the bound.

        Returns the bytes that the mirror will have then: more than the bound where all that is
        left is held. Only for the holder of the exclusive lock.
        """
        if self.max_bytes is None:
            return num_bytes
        passes = {folder: tree_bytes(folder) for folder in self.folder.glob("*/*/*/pass-*")}
        total = num_bytes + sum(passes.values())
        for folder in sorted(passes, key=_last_opened):
            if total <= self.max_bytes:
                break
            if evict(folder):
                total -= passes[folder]
        return total


def place_of(root: Path | Mirror) -> Place:
    """The place that a store's root is."""
    return root if isinstance(root, Mirror) else LocalPlace(root)


def _lacking(folder: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if not (folder / name).exists()]


def _last_opened(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # removed since it was listed
        return 0.0
