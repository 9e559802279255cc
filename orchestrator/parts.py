"""One part of a recording: the rows of consecutive samples in one Arrow file, whole or not there.

A part is written beside its place, fsynced and renamed, so that no reader ever sees half a part.
The same rows give the same bytes. Any Arrow reader opens it: one record batch of one
FixedSizeBinary column, uncompressed, described by JSON in the schema's metadata.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast, final

import numpy as np

from orchestrator.framing import BODY_OFFSET, MalformedError, check_end, frame, read_head
from orchestrator.identity import FORMAT_VERSION, canonical_json

if TYPE_CHECKING:
    from jaxtyping import UInt8

TEMPORARY_SUFFIX = ".tmp"

# crc32 of the whole file, taken as a tar header's: with the field itself blank. It ran at
# 2.7 GB/s where sha256 ran at 1.7 with the processor's SHA instructions, which not all have;
# it is there to find damage, not forgery. The file's length is checked exactly besides.
_BLANK_CHECKSUM = "-" * 8
_CHUNK = 1 << 22  # bytes read at a time, so that a file of any size is checked in little memory


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PartMetadata:
    """What a part says of itself; everything but ``error`` is known before it is recorded."""

    teacher: str  # the identity's key
    spec: str
    codec: str
    shape: tuple[int, ...]  # of one sample's signal
    pass_index: int
    first_row: int  # the part's first sample
    num_rows: int
    row_bytes: int
    error: float  # the codec's largest error, of its ``error_kind``
    format_version: int = FORMAT_VERSION


@final
@dataclass(frozen=True, slots=True)
class PartInfo:
    """A part as it lies on disk."""

    path: Path
    metadata: PartMetadata
    checksum: str  # 8 hex digits
    num_bytes: int  # of the file, all included


@final
@dataclass(frozen=True, slots=True)
class Damage:
    """A part that cannot be trusted, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def write_part(
    path: Path, rows: UInt8[np.ndarray, "n row_bytes"], metadata: PartMetadata
) -> PartInfo:
    """Publish ``rows`` as the part ``path``, whole or not at all; folders are made as needed.

    Raises OSError, with the bytes needed and free, where they cannot be written; nothing is left
    behind then. A process that is killed may leave a hidden ``.tmp`` file, which no reader sees.
    """
    assert rows.dtype == np.uint8
    assert rows.shape == (metadata.num_rows, metadata.row_bytes)
    body = np.ascontiguousarray(rows)
    described = {**asdict(metadata), "checksum": _BLANK_CHECKSUM}
    head, tail = frame(body, canonical_json(described, where="part"))
    checksum = _checksum(head, body, tail)
    pieces = (_stamp(head, checksum), body.data, _stamp(tail, checksum))
    num_bytes = len(head) + body.nbytes + len(tail)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, *pieces)
    except OSError as error:
        raise OSError(error.errno, _write_failure(path, num_bytes, error)) from error
    return PartInfo(path, metadata, checksum, num_bytes)


def publish(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file so that, whatever happens, ``path`` holds all of it or what it held before.

    Raises OSError; the temporary file beside ``path`` is gone then.
    """
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{unique}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_part(path: Path) -> PartInfo:
    """What a part says of itself, its structure and size checked, its rows not read.

    Raises ValueError naming the file where it is not a whole part of this format, and OSError
    as opening it does. Nothing is allocated at the word of the file's header.
    """
    try:
        with _opened(path) as file:
            text, row_bytes = read_head(file)
            metadata, checksum = _parse(text)
            if metadata.row_bytes != row_bytes:
                raise MalformedError(f"rows of {row_bytes} bytes, said to be {metadata.row_bytes}")
            check_end(file, body_end=_body_end(metadata))
            return PartInfo(path, metadata, checksum, os.fstat(file.fileno()).st_size)
    except MalformedError as error:
        raise ValueError(f"{path}: not a whole part: {error}") from error


def verify_part(path: Path) -> Damage | None:
    """Read the whole part and compare its checksum; None if every byte is as written.

    Raises OSError as opening it does.
    """
    try:
        info = read_part(path)
    except ValueError as error:
        return Damage(path, str(error).removeprefix(f"{path}: "))
    stamped, blank = _field(info.checksum), _field(_BLANK_CHECKSUM)
    with path.open("rb") as file:
        crc = zlib.crc32(file.read(BODY_OFFSET).replace(stamped, blank))
        left = _body_end(info.metadata) - BODY_OFFSET
        while left and (chunk := file.read(min(left, _CHUNK))):
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
        found = f"{zlib.crc32(file.read().replace(stamped, blank), crc):08x}"
    if found == info.checksum:
        return None
    return Damage(path, f"its checksum is {found}, but {info.checksum} was written")


def crc32_of(path: Path) -> int:
    """The crc32 of a file's bytes; 0 for what is no file. Raises OSError as opening it does."""
    crc = 0
    with suppress(MalformedError), _opened(path) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def _opened(path: Path) -> BinaryIO:
    # Without O_NONBLOCK a pipe would be waited for, for ever.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise MalformedError("it is no file")
    return file


def _body_end(metadata: PartMetadata) -> int:
    return BODY_OFFSET + metadata.num_rows * metadata.row_bytes


def _parse(text: bytes) -> tuple[PartMetadata, str]:
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"its metadata is not JSON: {error}") from error
    given = cast("dict[str, Any]", values) if isinstance(values, dict) else {}
    kinds: dict[str, type] = dict.fromkeys((field.name for field in fields(PartMetadata)), int)
    kinds |= {"teacher": str, "spec": str, "codec": str, "shape": list, "error": float}
    kinds["checksum"] = str
    if {name: type(value) for name, value in given.items()} != kinds:
        raise MalformedError("its metadata is not what this version of the format writes")
    shape = cast("list[object]", given.pop("shape"))
    checksum = str(given.pop("checksum"))
    sizes = [*shape, given["num_rows"], given["row_bytes"]]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise MalformedError("its metadata gives a size that is no positive number")
    return PartMetadata(shape=tuple(cast("list[int]", shape)), **given), checksum


def _field(checksum: str) -> bytes:
    return f'"checksum":"{checksum}"'.encode()


def _stamp(piece: bytes, checksum: str) -> bytes:
    assert piece.count(_field(_BLANK_CHECKSUM)) == 1
    return piece.replace(_field(_BLANK_CHECKSUM), _field(checksum))


def _checksum(head: bytes, body: np.ndarray, tail: bytes) -> str:
    return f"{zlib.crc32(tail, zlib.crc32(body.data, zlib.crc32(head))):08x}"


def _write_failure(path: Path, num_bytes: int, error: OSError) -> str:
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return (
        f"{path}: cannot write this part ({os.strerror(error.errno or 0)}): it needs {num_bytes} "
        f"bytes and {free} are free; make room, or give the store another place, and start "
        "again: parts recorded already stay"
    )
