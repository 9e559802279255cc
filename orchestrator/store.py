"""The record store: what teachers answered, once and for all, as numpy arrays mapped from disk.

A column is one signal of one teacher in one codec. Each is recorded by itself, so that a store
that holds more than is asked serves it, and a signal that is missing is recorded alone. Parts of a
remote store are mapped from this node's mirror of it, which opening a pass completes.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from distill.signals import SignalSpec
from orchestrator.codecs import Codec
from orchestrator.framing import BODY_OFFSET
from orchestrator.identity import Identity, differences
from orchestrator.layout import (
    IDENTITY_FILE,
    REMOVED_PREFIX,
    StoreError,
    column_name,
    num_bytes,
    part_name,
    pass_name,
    read_identity,
)
from orchestrator.locks import Lock
from orchestrator.mapping import join_bodies
from orchestrator.mirror import Mirror, place_of
from orchestrator.parts import (
    TEMPORARY_SUFFIX,
    Damage,
    PartInfo,
    PartMetadata,
    publish,
    read_part,
    verify_part,
    write_part,
)
from orchestrator.places import Place

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

_RECORD = "`python distill/run.py cache` records what is missing"
_MEND = "`python distill/run.py verify` moves damaged parts aside, and `cache` records them anew"


@final
@dataclass(frozen=True, order=True, slots=True)
class PartId:
    """One part of one pass of a column."""

    pass_index: int
    part_index: int


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One signal of one teacher in one codec: ``num_samples`` rows for every recorded pass.

    Made by ``SignalStore.column``; plain data, so that it travels to actors.
    """

    store: SignalStore
    spec: SignalSpec
    codec: Codec

    @property
    def path(self) -> Path:
        """The column's folder; its mirror where the store is remote."""
        return self.store.path / column_name(self.spec, self.codec.name)

    def part_path(self, part: PartId) -> Path:
        """Where a part lies, or will. Raises ValueError where there can be no such part."""
        self.store.identity.rows_of(part.part_index)
        return self._pass_path(part.pass_index) / part_name(part.part_index)

    def missing(self, passes: Iterable[int]) -> list[PartId]:
        """The parts of ``passes`` that are not recorded, in order."""
        every = range(self.store.identity.num_parts)
        found = self.store.place.parts(self.path, tuple(passes))
        return [PartId(p, i) for p in sorted(found) for i in every if i not in found[p]]

    def recorded(self, passes: Iterable[int]) -> list[PartId]:
        """The parts of ``passes`` that are recorded, in order."""
        every = range(self.store.identity.num_parts)
        found = self.store.place.parts(self.path, tuple(passes))
        return [PartId(p, i) for p in sorted(found) for i in every if i in found[p]]

    def passes(self) -> list[int]:
        """The passes of which anything is recorded, sorted."""
        return self.store.place.passes(self.path)

    def is_complete(self, pass_index: int) -> bool:
        """Whether every part of a pass is there: one listing of its folder."""
        return not self.missing([pass_index])

    def encode(
        self, values: Float32[np.ndarray, "n ..."]
    ) -> tuple[UInt8[np.ndarray, "n row_bytes"], float]:
        """The rows of ``values``, and the largest error they make (of ``codec.error_kind``).

        Raises ValueError naming the signal and the row that the codec cannot write.
        """
        try:
            rows = self.codec.encode(values)
        except ValueError as error:
            raise ValueError(f"signal {self.spec}, codec {self.codec.name}: {error}") from error
        return rows, self.codec.error(values, rows)

    def write(
        self, part: PartId, rows: UInt8[np.ndarray, "n row_bytes"], *, error: float
    ) -> PartInfo:
        """Publish a part, in place of the one that may be there. Raises OSError as write_part."""
        self.store.publish_identity()
        path = self.part_path(part)
        with self.store.place.publishing(path):
            return write_part(path, rows, self._metadata(part, error))

    def open_pass(self, pass_index: int) -> UInt8[np.ndarray, "num_samples row_bytes"]:
        """All rows of a pass, in the order of samples, mapped from disk and read-only.

        ``codec.decode(rows[indices])`` is a batch. Do not send the array to another process: it
        would be copied whole; let each open the pass. Headers and sizes are checked, rows are not
        (``verify``). Raises StoreError naming the file at fault and how to mend it. Of a remote
        store, downloads what the mirror lacks, and keeps it there while the array lives.
        """
        missing = self.missing([pass_index])
        num_parts = self.store.identity.num_parts
        if missing:
            folder = self.store.place.shown(self._pass_path(pass_index))
            raise StoreError(
                f"{folder}: {len(missing)} of {num_parts} parts are not recorded, part "
                f"{missing[0].part_index} the first; {_RECORD}"
            )
        with ExitStack() as stack:
            parts = [PartId(pass_index, index) for index in range(num_parts)]
            names = [self.part_path(part).name for part in parts]
            stack.enter_context(self.store.place.opening(self._pass_path(pass_index), names))
            rows = self._map(parts)
            # Every view of the rows, however cut, keeps the array alive that they are a view of.
            weakref.finalize(rows.base, stack.pop_all().close)
            return rows

    def open_part(self, part: PartId) -> tuple[UInt8[np.ndarray, "n row_bytes"], float]:
        """All rows of one recorded part, as ``open_pass``, and their error as recorded."""
        path = self.part_path(part)
        with self.store.place.opening(path.parent, [path.name]):
            return self._map([part]), read_part(path).metadata.error

    def _map(self, parts: Sequence[PartId]) -> UInt8[np.ndarray, "n row_bytes"]:
        bodies: list[tuple[Path, int]] = []
        for part in parts:
            if damage := self.inspect(part):
                raise StoreError(f"{damage}; {_MEND}")
            size = len(self.store.identity.rows_of(part.part_index)) * self.codec.row_bytes
            bodies.append((self.part_path(part), size))
        return join_bodies(bodies, offset=BODY_OFFSET).reshape(-1, self.codec.row_bytes)

    def inspect(self, part: PartId) -> Damage | None:
        """Whether a part is whole and what this column expects; its rows are not read."""
        return self._inspect(part, self.part_path(part))

    def _inspect(self, part: PartId, path: Path) -> Damage | None:
        try:
            found = read_part(path).metadata
        except ValueError as error:
            return Damage(path, str(error).removeprefix(f"{path}: "))
        expected = self._metadata(part, found.error)
        reasons = [
            f"{field.name} is {getattr(found, field.name)!r}, not {getattr(expected, field.name)!r}"
            for field in fields(PartMetadata)
            if getattr(found, field.name) != getattr(expected, field.name)
        ]
        if found.teacher != expected.teacher:
            reasons += self.store.differences_from(found.teacher)
        reason = f"recorded for something else: {'; '.join(reasons)}"
        return Damage(path, reason) if reasons else None

    def verify(self, pass_index: int) -> dict[PartId, Damage]:
        """Read every recorded part of a pass; those that are not as written, with the reason.

        Of a remote store, every part is downloaded for it.
        """
        damages: dict[PartId, Damage] = {}
        for part in self.recorded([pass_index]):
            with self.store.place.original(self.part_path(part)) as path:
                if damage := self._inspect(part, path) or verify_part(path):
                    damages[part] = Damage(self.part_path(part), damage.reason)
        return damages

    def quarantine(self, part: PartId) -> str:
        """Rename a damaged part, so that it counts as missing; returns what to tell the user."""
        path, place = self.part_path(part), self.store.place
        aside = place.quarantine(path)
        return f"{place.shown(path)}: damaged, moved aside as {aside}; it will be recorded anew"

    def remove_pass(self, pass_index: int) -> None:
        """Delete a pass's parts; arrays that are open stay readable."""
        self.store.place.remove(self._pass_path(pass_index))

    def bytes_on_disk(self) -> int:
        """Bytes of the column's files, at the place of record."""
        return num_bytes(self.store.place.files(self.path))

    def _pass_path(self, pass_index: int) -> Path:
        return self.path / pass_name(pass_index)

    def _metadata(self, part: PartId, error: float) -> PartMetadata:
        rows = self.store.identity.rows_of(part.part_index)
        return PartMetadata(
            teacher=self.store.identity.key,
            spec=str(self.spec),
            codec=self.codec.name,
            shape=self.codec.shape,
            pass_index=part.pass_index,
            first_row=rows.start,
            num_rows=len(rows),
            row_bytes=self.codec.row_bytes,
            error=error,
        )


@final
@dataclass(frozen=True, slots=True)
class SignalStore:
    """The recordings of one teacher under one root. Making the object writes nothing.

    Raises StoreError where the folder of this identity's key holds another identity.
    """

    root: Path | Mirror
    identity: Identity

    def __post_init__(self) -> None:
        if found := self.differences_from(self.identity.key):
            raise StoreError(
                f"{self.path / IDENTITY_FILE}: not the identity that its folder is named for: "
                f"{'; '.join(found)}; remove the folder, or give the store another place"
            )

    @property
    def place(self) -> Place:
        """Where the files lie."""
        return place_of(self.root)

    @property
    def path(self) -> Path:
        """The teacher's folder; its mirror where the store is remote."""
        return self.place.root / self.identity.key

    @property
    def lock(self) -> Lock:
        """What the one process that records here holds."""
        return self.place.lock(self.identity.key)

    def column(self, spec: SignalSpec, codec: Codec) -> Column:
        """A signal's recordings in a codec. Raises StoreError where no folder can be so named."""
        column_name(spec, codec.name)
        return Column(self, spec, codec)

    def publish_identity(self) -> None:
        """Write ``identity.json``, for people and for listings, unless it is there."""
        path = self.path / IDENTITY_FILE
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            publish(path, json.dumps(json.loads(self.identity.to_json()), indent=2).encode())
        self.place.publish_small(path)

    def differences_from(self, key: str) -> list[str]:
        """How the teacher of ``key`` differs, if this root knows it; else nothing."""
        known = read_identity(self.place.root, key)
        return differences(self.identity, known) if known else []

    def remove_leftovers(self) -> int:
        """Delete what killed writers left, and return how many files and folders that were.

        Only for the holder of the ``FolderLock``: another writer's file would look the same.
        """
        files = [*self.path.rglob(f".*{TEMPORARY_SUFFIX}")]
        folders = [*self.path.rglob(f"{REMOVED_PREFIX}*")]
        for file in files:
            file.unlink(missing_ok=True)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        return len(files) + len(folders)

    def bytes_on_disk(self) -> int:
        """Bytes of all the teacher's files, at the place of record."""
        return num_bytes(self.place.files(self.path))
