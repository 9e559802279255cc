"""What a checkpoint holds, told from its file without importing torch and without running it.

safetensors: https://github.com/huggingface/safetensors, "Format". A file of torch.save is a zip
archive with a pickle of the tensors' shapes; older ones are a bare pickle after a magic number.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, cast, final

from distill.models.catalog import find

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
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
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"checkpoint '{path}' is damaged or cut short: {error}") from error


def _shapes_of(header: dict[str, dict[str, object]], *, num_bytes: int) -> dict[str, Shape]:
    """Shapes by name; ValueError unless the tensors fill ``num_bytes`` without gap or overlap."""
    entries: list[tuple[int, int, str, Shape]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = tuple(cast("list[int]", entry["shape"]))
        begin, end = cast("list[int]", entry["data_offsets"])
        if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
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


def _read_torch(path: Path) -> dict[str, Shape] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if not pickles:
                raise ValueError(f"'{path}' is a zip archive but not a checkpoint of torch.save")
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"checkpoint '{path}' is damaged: wrong checksum in '{damaged}'")
            content = archive.read(pickles[0])
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"checkpoint '{path}' is damaged or cut short: {error}") from error
    return _pickled_shapes(content)


@final
class _Shape:
    """Stands for a tensor while its pickle is read."""

    def __init__(self, _storage: object, _offset: int, shape: Shape, *_rest: object) -> None:
        self.shape = shape

    def __setstate__(self, _state: object) -> None:
        """A tensor's attributes do not matter here."""


def _parameter(data: object, *_rest: object) -> object:
    return data


@final
class _ShapeReader(pickle.Unpickler):
    """Reads tensors as their shapes and makes nothing else: no code of the file is run."""

    def find_class(self, module_name: str, global_name: str, /) -> object:
        name = f"{module_name}.{global_name}"
        if name == "collections.OrderedDict":
            return OrderedDict
        if name == "torch._utils._rebuild_tensor_v2":
            return _Shape
        if name == "torch._utils._rebuild_parameter":
            return _parameter
        if module_name in ("torch", "torch.storage") and global_name.endswith("Storage"):
            return global_name
        raise pickle.UnpicklingError(f"{name} is not part of a plain state dict")

    def persistent_load(self, pid: object, /) -> object:
        return pid


def _pickled_shapes(content: bytes) -> dict[str, Shape] | None:
    try:
        loaded = _ShapeReader(io.BytesIO(content)).load()
    except Exception:
        # What else a checkpoint may hold (an optimiser's state, arguments) is torch's to judge.
        return None
    state = unwrap(loaded)
    if state is None:
        return None
    return _strip({name: item.shape for name, item in state.items() if isinstance(item, _Shape)})


def unwrap(loaded: object) -> Mapping[str, object] | None:
    """The state inside a checkpoint's dict, or the dict itself; None if there is neither."""
    if not isinstance(loaded, Mapping):
        return None
    mapping = cast("Mapping[str, object]", loaded)
    for key in WRAPPERS:
        inner = mapping.get(key)
        if isinstance(inner, Mapping):
            return cast("Mapping[str, object]", inner)
    return mapping
