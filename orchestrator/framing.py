"""The Arrow IPC file around a part's rows: one batch of one column, rows from byte 4096 on.

Rows that begin on a page's border can be mapped to any place in memory (orchestrator/mapping.py).
"""

# pyarrow brings no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, BinaryIO, final

import pyarrow as pa

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

BODY_OFFSET = 4096

_COLUMN = "rows"
_METADATA_KEY = b"tutelage"
_MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
_END_OF_STREAM = _CONTINUATION + bytes(4)
_MAX_PADDING = 64  # Arrow pads a body to 8 bytes, and may to 64
_MAX_FOOTER = 2 * BODY_OFFSET  # it repeats the schema, which the head has room for


@final
class MalformedError(Exception):
    """What is wrong with a file; whoever knows its name adds it."""


def frame(rows: UInt8[np.ndarray, "n row_bytes"], metadata: str) -> tuple[bytes, bytes]:
    """What stands before and after the contiguous ``rows`` in their file: head and tail.

    The head, with ``metadata`` in the schema, is ``BODY_OFFSET`` bytes long. The same arguments
    give the same bytes.
    """
    # The padding is the record batch's own metadata: the schema's is repeated in the footer.
    padding = BODY_OFFSET - _message_ends(_serialise(rows[:1], metadata, padding=0))[1]
    framed = _serialise(rows, metadata, padding=padding)
    assert _message_ends(framed)[1] == BODY_OFFSET
    return bytes(framed[:BODY_OFFSET]), bytes(framed[BODY_OFFSET + rows.nbytes :])


def read_head(file: BinaryIO) -> tuple[bytes, int]:
    """The metadata that the file's schema carries, and the bytes of a row.

    Raises MalformedError. Lengths are checked before pyarrow sees a byte, and it sees at most
    ``BODY_OFFSET`` of them, so a forged header can make nothing large.
    """
    head = file.read(BODY_OFFSET)
    if len(head) < BODY_OFFSET or not head.startswith(_MAGIC):
        raise MalformedError("it does not begin with an Arrow file's header")
    schema_end, body_offset = _message_ends(head)
    if body_offset != BODY_OFFSET:
        raise MalformedError(f"its rows begin at byte {body_offset}, not {BODY_OFFSET}")
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(head[8:schema_end]))
        names, types = schema.names, schema.types
        metadata: bytes | None = (schema.metadata or {}).get(_METADATA_KEY)
    except Exception as error:  # a damaged or hostile schema may fail in any way
        reason = " ".join(str(error).split())
        raise MalformedError(f"its schema cannot be read: {reason}") from error
    if metadata is None or names != [_COLUMN]:
        raise MalformedError("it is an Arrow file, but not a part of a recording")
    if not pa.types.is_fixed_size_binary(types[0]):
        raise MalformedError(f"its rows are {types[0]}, not of one length")
    return metadata, types[0].byte_width


def check_end(file: BinaryIO, *, body_end: int) -> None:
    """Raise MalformedError unless rows that end at ``body_end`` fill the file up to its footer."""
    num_bytes = os.fstat(file.fileno()).st_size
    closing = 4 + len(_MAGIC)
    if num_bytes < body_end + len(_END_OF_STREAM) + closing:
        raise MalformedError(f"it has {num_bytes} bytes, but its rows end at {body_end} or later")
    file.seek(-closing, os.SEEK_END)
    footer_bytes, magic = struct.unpack("<i6s", file.read(closing))
    padding = num_bytes - body_end - len(_END_OF_STREAM) - footer_bytes - closing
    is_footer = magic == _MAGIC and 0 < footer_bytes <= _MAX_FOOTER
    if not is_footer or not 0 <= padding < _MAX_PADDING:
        raise MalformedError(f"its {num_bytes} bytes do not end with the footer of its rows")
    file.seek(body_end + padding)
    if file.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
        raise MalformedError(f"its rows do not end at byte {body_end}")


def _serialise(
    rows: UInt8[np.ndarray, "n row_bytes"], metadata: str, *, padding: int
) -> memoryview:
    kind = pa.binary(rows.shape[1])
    field = pa.field(_COLUMN, kind, nullable=False)
    schema = pa.schema([field], metadata={_METADATA_KEY: metadata})
    column = pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        batch = pa.record_batch([column], schema=schema)
        writer.write_batch(batch, custom_metadata={"padding": " " * padding})
    return memoryview(sink.getvalue())


def _message_ends(head: bytes | memoryview) -> tuple[int, int]:
    """Where the schema's message ends, and the record batch's: there the rows begin."""
    ends: list[int] = []
    start = 8  # the magic, padded
    for _ in range(2):
        if bytes(head[start : start + 4]) != _CONTINUATION:
            raise MalformedError(f"it has no Arrow message at byte {start}")
        length: int = struct.unpack_from("<i", head, start + 4)[0]
        if not 0 < length <= BODY_OFFSET - start - 8:
            raise MalformedError(f"it has an Arrow message of {length} bytes at byte {start}")
        start += 8 + length
        ends.append(start)
    return ends[0], ends[1]
