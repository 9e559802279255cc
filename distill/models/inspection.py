"""What a checkpoint holds, told from its file without importing torch and without running it.

safetensors: https://github.com/huggingface/safetensors, "Format". A file of torch.save is a zip
archive with a pickle of the tensors' shapes; older ones are a bare pickle after a magic number.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, cast, final

from distill.models.catalog import find
from distill.plain_pickle import read_plain

# The format allows ten times as much. As Python's objects JSON takes up to 25 times its bytes, and
# the header of a network of 1,000 tensors has a tenth of a megabyte.
_MAX_HEADER_BYTES = 10_000_000
_MAX_PICKLE_BYTES = 16_000_000  # of a torch.save file, without the tensors
_MAX_DIMENSIONS = 64  # torch's own limit
_MAX_SIZE = 1 << 63
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_STORAGE_BYTES = {
    "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Int": 4, "Long": 8, "Half": 2, "BFloat16": 2,
    "Float": 4, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1,
}  # fmt: skip
WRAPPERS = ("model", "state_dict", "net")  # keys under which checkpoints keep the state
PARALLEL_PREFIX = "module."  # what DataParallel puts before each name

Shape = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class CheckpointHeader:
    """A checkpoint's format and, where it can be known without torch, its tensors' shapes.

    Names are those of the network: without the dict around the state and ``module.`` prefixes.
    """

    path: Path
    format: Literal["safetensors", "torch"]
    shapes: Mapping[str, Shape] | None

    def num_classes(self, arch: str) -> int | None:
        """The classifier's number of classes, if ``arch`` is of the zoo and the shape is known."""
        entry = find(arch)
        if entry is None or self.shapes is None:
            return None
        shape = self.shapes.get(entry.classifier, ())
        return shape[0] if len(shape) == 2 else None


def inspect_checkpoint(path: Path) -> CheckpointHeader:
    """Read the header of a safetensors file or of a torch.save file, and check it for damage.

    A zip archive is read to its end and its checksums are verified. Raises ValueError, naming the
    file and what is wrong with it, for one that is missing, cut short, damaged or of another kind.
    """
    if not path.is_file():
        found = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise ValueError(f"checkpoint '{path}' {found}")
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_MAGIC))
    if start.startswith(b"PK"):
        return CheckpointHeader(path, "torch", _read_torch(path))
    if start == _LEGACY_MAGIC:
        return CheckpointHeader(path, "torch", None)
    return CheckpointHeader(path, "safetensors", _strip(_read_safetensors(path)))


def _strip(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name.removeprefix(PARALLEL_PREFIX): shape for name, shape in shapes.items()}


def _read_safetensors(path: Path) -> dict[str, Shape]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        plausible = size >= 10 and length <= _MAX_HEADER_BYTES and file.peek(1)[:1] == b"{"
        if not plausible:
            raise ValueError(f"'{path}' is not a checkpoint: neither safetensors nor torch.save")
        if 8 + length > size:
            raise ValueError(f"checkpoint '{path}' is cut short: its header ends past its end")
        text = file.read(length)
    try:
        return _shapes_of(json.loads(text), num_bytes=size - 8 - length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"checkpoint '{path}' is damaged or cut short: {error}") from error


def _shapes_of(header: dict[str, dict[str, object]], *, num_bytes: int) -> dict[str, Shape]:
    """Shapes by name; ValueError unless the tensors fill ``num_bytes`` without gap or overlap."""
    entries: list[tuple[int, int, str, Shape]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = tuple(cast("list[int]", entry["shape"]))
        begin, end = cast("list[int]", entry["data_offsets"])
        if not _is_shape((*shape, begin, end)):
            raise ValueError(f"'{name}' has no valid shape and offsets")
        bits = _BITS.get(str(entry["dtype"]))
        if bits is not None and prod(shape) * bits != (end - begin) * 8:
            raise ValueError(f"'{name}' has {end - begin} bytes, which do not fit its shape")
        entries.append((begin, end, name, shape))
    position = 0
    for begin, end, name, _ in sorted(entries):
        if begin != position:
            raise ValueError(f"'{name}' starts at byte {begin} of the data, not at {position}")
        position = end
    if position != num_bytes:
        raise ValueError(f"its tensors take {position} bytes, but there are {num_bytes}")
    return {name: shape for _, _, name, shape in entries}


def _is_shape(numbers: object) -> bool:
    """Whether these can be sizes: whole numbers that fit, and not so many that a product hangs."""
    if not isinstance(numbers, tuple):
        return False
    sizes = cast("tuple[object, ...]", numbers)
    whole = all(type(size) is int and 0 <= size < _MAX_SIZE for size in sizes)
    return whole and len(sizes) <= _MAX_DIMENSIONS


@final
class _RefusedError(Exception):
    """What is wrong with a checkpoint; whoever knows its name adds it."""


def _read_torch(path: Path) -> dict[str, Shape] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return _shapes_in(archive, num_bytes=path.stat().st_size)
    except _RefusedError as error:
        raise ValueError(f"checkpoint '{path}' {error}") from error
    except Exception as error:  # a damaged or hostile archive may fail in any way
        reason = str(error) or type(error).__name__
        raise ValueError(f"checkpoint '{path}' is damaged or cut short: {reason}") from error


def _shapes_in(archive: zipfile.ZipFile, *, num_bytes: int) -> dict[str, Shape] | None:
    """The tensors of a torch.save archive, once it is known to unpack to no more than it is."""
    members = archive.infolist()
    described = [member for member in members if member.filename.endswith("/data.pkl")]
    if len(described) != 1:
        raise _RefusedError("is a zip archive, but not one of torch.save")
    # torch.save never compresses; torch.load would unpack a bomb.
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise _RefusedError("is compressed; save it anew with torch.save")
    root = described[0].filename.removesuffix("data.pkl")
    # torch looks names up without regard to case.
    sizes = {member.filename.removeprefix(root).lower(): member.file_size for member in members}
    if len(sizes) < len(members) or sum(sizes.values()) > num_bytes:
        raise _RefusedError("is damaged: it holds more than there is in it")
    if described[0].file_size > _MAX_PICKLE_BYTES:
        raise _RefusedError(f"is no state dict: it has {described[0].file_size:,} bytes of pickle")
    damaged = archive.testzip()
    if damaged is not None:
        raise _RefusedError(f"is damaged: wrong checksum in '{damaged}'")
    return _pickled_shapes(archive.read(described[0]), sizes)


@final
class _Shape:
    """Stands for a tensor while its pickle is read."""

    def __init__(self, _storage: object, _offset: object, shape: object, *_rest: object) -> None:
        if not _is_shape(shape):
            raise ValueError("it holds a tensor without a valid shape")
        self.shape = cast(Shape, shape)


def _parameter(data: object, *_rest: object) -> object:
    return data


@final
@dataclass(frozen=True, slots=True)
class _Storage:
    """Stands for the class of a tensor's numbers."""

    num_bytes: int  # of one number


def _dict() -> object:
    return {}


def _bytes(*_: object) -> object:
    raise ValueError("it makes bytes of a number's length")


_KNOWN = {
    "collections.OrderedDict": _dict,
    "builtins.bytearray": _bytes,
    "torch._utils._rebuild_tensor_v2": _Shape,
    "torch._utils._rebuild_parameter": _parameter,
    **{
        f"{module}.{name}Storage": _Storage(num_bytes)
        for name, num_bytes in _STORAGE_BYTES.items()
        for module in ("torch", "torch.storage")
    },
}


def _pickled_shapes(content: bytes, sizes: Mapping[str, int]) -> dict[str, Shape] | None:
    """The tensors' shapes; None where the pickle holds more than tensors, which torch then judges.

    ``sizes`` are the bytes of the archive's members. Raises _RefusedError for what is no pickle
    of data, and for tensors that say to be larger than they are: torch would read past their end.
    """

    def check_storage(name: object) -> None:
        _, kind, key, _, count, *_ = cast("tuple[object, ...]", name)
        held = sizes.get(f"data/{key}".lower(), -1)
        if not _is_shape((count,)):
            raise ValueError(f"tensor '{key}' has no valid size")
        if isinstance(kind, _Storage) and cast(int, count) * kind.num_bytes > held:
            raise ValueError(f"tensor '{key}' is said to be larger than it is")

    try:
        loaded = read_plain(content, _KNOWN, persistent=check_storage)
    except ValueError as error:
        raise _RefusedError(
            f"is no plain state dict: {error}; save the state dict alone"
        ) from error
    if loaded.unknown:
        return None
    state = unwrap(loaded.value)
    if state is None:
        return None
    return _strip({name: item.shape for name, item in state.items() if isinstance(item, _Shape)})


def unwrap(loaded: object) -> Mapping[str, object] | None:
    """The state inside a checkpoint's dict, or the dict itself; None if there is neither."""
    if not isinstance(loaded, Mapping):
        return None
    mapping = cast("Mapping[object, object]", loaded)
    inner = (mapping.get(key) for key in WRAPPERS)
    state = next((found for found in inner if isinstance(found, Mapping)), mapping)
    items = cast("Mapping[object, object]", state).items()
    return {name: value for name, value in items if isinstance(name, str)}
