"""Files as an attacker writes them: pickles that run programs, and headers that lie about sizes."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.framing import frame
from orchestrator.identity import canonical_json
from orchestrator.parts import PartMetadata
from tests.data_files import write_arrays, write_cifar
from tests.test_identity import make_identity

HUGE = 1 << 62
MEMO_BOMB = b"\x80\x02}r\xff\xff\xff\xff."  # CPython's reader in C makes room for 2^33 objects
# A list of two of a list of two …, 2^40 values in 240 bytes, beside all that it was made of.
NESTED_LISTS = b"](K\x00q\x00" + b"](h\x00h\x00eq\x00" * 40 + b"e"
# The same of tuples, as a key: the hash of a tuple is computed from its members' every time.
HASH_BOMB = b"\x80\x02](K\x00q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"e}h\x00K\x01s\x86."
_BOMB_BYTES = 300 << 20  # more than the readers are given


@dataclass
class Program:
    """What its pickle runs: it writes ``marker``."""

    marker: Path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.marker), "w")


def one_line(error: pytest.ExceptionInfo[BaseException], path: Path) -> str:
    """What an error says: one line, which names the file and holds no terminal's commands."""
    text = str(error.value)
    assert path.name in text
    assert text.isprintable()
    return text


def nested(depth: int) -> bytes:
    """A JSON text that nests lists."""
    return b"[" * depth + b"]" * depth


def safetensors(header: bytes | Mapping[str, object], *, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def torch_file(
    path: Path, content: bytes, *, record: bytes = bytes(4), packed: bool = False
) -> Path:
    """An archive as torch.save's, with this pickle and one tensor's bytes."""
    how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", record)
        archive.writestr("archive/version", "3\n")
    return path


def tensor_pickle(count: int, *, shape: bytes = b"K\x01\x85") -> bytes:
    """A state dict of one float32 tensor, ``w``, in a storage that is said to hold ``count``."""
    size = b"\x8a\x08" + struct.pack("<q", count)
    storage = (
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    tensor = (
        b"((" + storage + size + b"tQK\x00" + shape + shape + b"\x89ccollections\nOrderedDict\n)Rt"
    )
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"R"
    return b"\x80\x02}X\x01\x00\x00\x00w" + rebuilt + b"s."


def write_lies(folder: Path) -> None:
    """One file for each size that is announced and not there, by a name that says what reads it."""
    _lying_checkpoints(folder)
    _lying_data(folder)
    _lying_texts(folder)


def _lying_checkpoints(folder: Path) -> None:
    tensor = {"dtype": "F32", "shape": [HUGE] * 40, "data_offsets": [0, 4]}
    too_large = tensor | {"shape": [1 << 70]}
    for name, content in {
        "length": (1 << 63).to_bytes(8, "little") + b"{}",
        "nested": safetensors(b'{"a":' + nested(200_000) + b"}"),
        "product": safetensors({"w": tensor}, data=bytes(4)),
        "size": safetensors({"w": too_large}, data=bytes(4)),
    }.items():
        (folder / f"weights-{name}.safetensors").write_bytes(content)
    for name, content in {
        "memo": MEMO_BOMB,
        "bytes": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + bytes(5) + b"\x01\x85R.",
        "storage": tensor_pickle(1 << 40),
        "hash": HASH_BOMB,
    }.items():
        torch_file(folder / f"weights-{name}.pt", content)
    torch_file(folder / "weights-bomb.pt", tensor_pickle(1), record=bytes(_BOMB_BYTES), packed=True)


def _lying_data(folder: Path) -> None:
    (folder / "idx-bomb.gz").write_bytes(gzip.compress(bytes(_BOMB_BYTES), 1))
    arrays = folder / "arrays-shape.npz"
    write_arrays(arrays)
    _replace_member(arrays, "train_images", _npy({"shape": (1 << 50, 6, 6)}))
    _replace_member(write_arrays(folder / "arrays-header.npz"), "train_images", _npy_head(1 << 31))
    write_arrays(folder / "arrays-label.npz", train_labels=np.full(40, HUGE))
    with zipfile.ZipFile(
        folder / "arrays-bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        shape = (_BOMB_BYTES // 36, 6, 6)
        archive.writestr("train_images.npy", _npy({"shape": shape}) + bytes(36 * shape[0]))
    for name, size in (("thin", (1, 60_000)), ("large", (10_000, 10_000))):
        Image.new("1", size).save(folder / f"image-{name}.png")
    write_cifar(folder / "cifar", "cifar10")
    batch = folder / "cifar" / "cifar-10-batches-py"
    array = b"cnumpy\nndarray\n(\x8a\x06" + bytes(5) + b"\x01M\x00\x0ctX\x02\x00\x00\x00u1\x86R"
    for name, content in {
        "memo": MEMO_BOMB,
        "shape": b"\x80\x02}X\x04\x00\x00\x00data" + array + b"s.",
    }.items():
        (folder / f"cifar-{name}").write_bytes(content)
    good = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, protocol=2)
    labels = b"X\x06\x00\x00\x00labels" + NESTED_LISTS + b"s."
    (batch / "data_batch_1").write_bytes(good.removesuffix(b".") + labels)


def _npy(changes: Mapping[str, object]) -> bytes:
    header = {"descr": "|u1", "fortran_order": False, "shape": (1,)} | dict(changes)
    return _npy_head(None, f"{header}\n".encode())


def _npy_head(length: int | None, text: bytes = b"") -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) if length is None else length) + text


def _replace_member(file: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(file) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, held in (kept | {f"{member}.npy": content}).items():
            archive.writestr(name, held)


def _lying_texts(folder: Path) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    merged = [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    for name, text in {
        "aliases": "\n".join(["a0: &a0 [1, 2]", *levels]),
        "merges": "\n".join(["m0: &m0 {a: 1, b: 2, c: 3}", *merged]),
        "nested": nested(100_000).decode(),
        "long": "# " + "x" * (2 << 20),
    }.items():
        (folder / f"yaml-{name}.yaml").write_text(text)
    _lying_stores(folder)
    _sparse(folder / "weights-sparse.pt", b"PK\x03\x04")


def _lying_stores(folder: Path) -> None:
    rows = np.zeros((4096, 20), np.uint8)
    forged_part(folder / "part-rows.arrow", rows, num_rows=HUGE)
    forged_part(folder / "part-shape.arrow", rows, shape=[HUGE] * 100)
    whole = forged_part(folder / "part-footer.arrow", rows).read_bytes()
    second = 16 + int.from_bytes(whole[12:16], "little")  # message, after the schema's
    for name, place in (("schema", 12), ("batch", second + 4)):
        content = bytearray(whole)
        content[place : place + 4] = struct.pack("<i", (1 << 31) - 1)
        (folder / f"part-{name}.arrow").write_bytes(content)
    length = int.from_bytes(whole[-10:-6], "little") + (1 << 20)
    longer = whole[:-10] + bytes(1 << 20) + struct.pack("<i", length) + whole[-6:]
    (folder / "part-footer.arrow").write_bytes(longer)
    for name, text in {
        "samples": json.dumps(json.loads(make_identity().to_json()) | {"num_samples": HUGE}),
        "nested": nested(200_000).decode(),
        "kinds": json.dumps(json.loads(make_identity().to_json()) | {"num_samples": 1e300}),
    }.items():
        identity = folder / f"store-{name}" / make_identity().key / "identity.json"
        identity.parent.mkdir(parents=True)
        identity.write_text(text)
    (folder / "store-sparse" / make_identity().key).mkdir(parents=True)
    _sparse(folder / "store-sparse" / make_identity().key / "identity.json", b"{")
    _sparse(folder / "part-sparse.arrow", b"ARROW1\0\0")


def _sparse(path: Path, start: bytes) -> None:
    """A file of a terabyte that takes no room on most disks."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(1 << 40)


def forged_part(path: Path, rows: np.ndarray, **changes: object) -> Path:
    """A part that says of itself what it is told to."""
    described = asdict(
        PartMetadata(
            teacher="0" * 20,
            spec="logits",
            codec="float16",
            shape=(10,),
            pass_index=0,
            first_row=0,
            num_rows=len(rows),
            row_bytes=rows.shape[1],
            error=0.0,
        )
    )
    text = canonical_json(described | {"checksum": "0" * 8} | changes, where="part")
    head, tail = frame(rows, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + rows.tobytes() + tail)
    return path
