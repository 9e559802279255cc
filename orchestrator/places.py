"""Where a store's files lie: a local folder, or a remote one that is mirrored here."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, final

from orchestrator.consumers import CONSUMERS, Consumers, LocalConsumers
from orchestrator.identity import Identity
from orchestrator.layout import (
    FileInfo,
    files_below,
    parts_in,
    passes_in,
    read_identity,
    refuse_links,
    remove_tree,
)
from orchestrator.locks import LOCK_FILE, FolderLock, Lock
from orchestrator.parts import crc32_of


class Place(Protocol):
    """What a store asks of the place that its files lie in; paths are below ``root``."""

    is_local: ClassVar[bool]  # whether looking costs no request to another machine

    @property
    def root(self) -> Path:
        """The local folder that files are mapped from."""
        ...

    def shown(self, path: Path) -> str:
        """What messages call a file or folder."""
        ...

    def parts(self, column: Path, passes: Sequence[int]) -> dict[int, set[int]]:
        """The recorded parts of each of ``passes``; each is whole."""
        ...

    def passes(self, column: Path) -> list[int]:
        """The passes of which anything is recorded, sorted."""
        ...

    def files(self, folder: Path) -> Mapping[str, FileInfo]:
        """Every recorded file below a folder, by name relative to it."""
        ...

    def identity(self, key: str) -> Identity | None:
        """What is recorded of a key's meaning. Raises StoreError naming a file that is no such."""
        ...

    def publishing(self, path: Path) -> AbstractContextManager[None]:
        """What is written at ``path`` meanwhile is recorded at the end."""
        ...

    def publish_small(self, path: Path) -> None:
        """Record a file that is rarely new, unless it is."""
        ...

    def opening(self, folder: Path, names: Sequence[str]) -> AbstractContextManager[None]:
        """These parts of a pass are there to be read, until the end."""
        ...

    def original(self, path: Path) -> AbstractContextManager[Path]:
        """A file with the recorded bytes of a part, to be checked."""
        ...

    def quarantine(self, path: Path) -> str:
        """Rename a recorded part after its checksum; returns the new name."""
        ...

    def remove(self, folder: Path) -> None:
        """Delete a folder; what is mapped stays readable."""
        ...

    def forget_deleted(self, column: Path) -> None:
        """Delete copies of passes that are recorded no more, unless they are open."""
        ...

    def lock(self, key: str) -> Lock:
        """What the one process that records a teacher holds."""
        ...

    def consumers(self, key: str) -> Consumers:
        """All drivers that read a teacher's recordings."""
        ...


@final
@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A folder that every node of the cluster sees, used as it is.

    Below ``root`` no link is followed, so that a store that was copied from elsewhere can neither
    show files outside it nor have them overwritten: methods raise StoreError naming the link.
    """

    root: Path
    is_local: ClassVar[bool] = True

    def shown(self, path: Path) -> str:
        return str(path)

    def parts(self, column: Path, passes: Sequence[int]) -> dict[int, set[int]]:
        return {index: parts_in(column, index) for index in passes}

    def passes(self, column: Path) -> list[int]:
        return passes_in(column)

    def files(self, folder: Path) -> Mapping[str, FileInfo]:
        return files_below(folder)

    def identity(self, key: str) -> Identity | None:
        return read_identity(self.root, key)

    def publishing(self, path: Path) -> AbstractContextManager[None]:
        refuse_links(self.root, path)
        return nullcontext()

    def publish_small(self, path: Path) -> None: ...

    def opening(self, folder: Path, names: Sequence[str]) -> AbstractContextManager[None]:
        refuse_links(self.root, folder, *names)
        return nullcontext()

    @contextmanager
    def original(self, path: Path) -> Generator[Path]:
        refuse_links(self.root, path)
        yield path

    def quarantine(self, path: Path) -> str:
        refuse_links(self.root, path)
        aside = damaged_name(path.name, crc32_of(path))
        path.replace(path.with_name(aside))
        return aside

    def remove(self, folder: Path) -> None:
        refuse_links(self.root, folder)
        remove_tree(folder)

    def forget_deleted(self, column: Path) -> None: ...

    def lock(self, key: str) -> Lock:
        refuse_links(self.root, self.root / key / LOCK_FILE)
        return FolderLock(self.root / key)

    def consumers(self, key: str) -> Consumers:
        refuse_links(self.root, self.root / key / CONSUMERS)
        return LocalConsumers(self.root / key)


def damaged_name(name: str, crc32: int) -> str:
    """``part-00007.arrow.damaged-1a2b3c4d``: the same damage has the same name."""
    return f"{name}.damaged-{crc32:08x}"
