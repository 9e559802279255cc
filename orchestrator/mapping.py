"""The bodies of many files as one array, without copying them.

A range of addresses is reserved once and every file's body is mapped over its share of it, so that
a batch drawn from all over a pass is one numpy gather and the page cache is the only cache.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8

_MAP_FIXED = 0x10  # the same on Linux, macOS and the BSDs; Python's mmap does not name it
_HUGE_PAGE = 2 << 20
_MAP_FAILED = ctypes.c_void_p(-1).value


def join_bodies(
    bodies: Sequence[tuple[Path, int]],
    *,
    offset: int,
    granularity: int = mmap.ALLOCATIONGRANULARITY,
) -> UInt8[np.ndarray, " total"]:
    """The ``size`` bytes from ``offset`` of each (path, size), end to end, read-only.

    Files must not shrink while the array lives; a file removed or replaced stays readable. Where
    the system's pages do not divide ``offset`` and every size but the last, nothing can be mapped
    and the bodies are read into memory instead. Raises OSError as opening or mapping does.
    """
    starts = np.cumsum([0, *(size for _, size in bodies)]).tolist()
    if offset % granularity or any(start % granularity for start in starts[:-1]):
        return _read(bodies, starts, offset=offset)
    # Reserved read-only and private: the kernel counts no memory for it, however large it is.
    # The array keeps this object alive, and its end unmaps the whole range, files and all.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    reserved = mmap.mmap(-1, starts[-1] + _HUGE_PAGE, flags=flags, prot=mmap.PROT_READ)
    # A file is mapped by huge pages where addresses and offsets agree modulo their size. So do the
    # first body's, and the others' if each is a multiple of it; then a gather misses the TLB less.
    skipped = (offset - np.frombuffer(reserved, np.uint8).ctypes.data) % _HUGE_PAGE
    joined = np.frombuffer(reserved, np.uint8, starts[-1], skipped)
    for (path, size), start in zip(bodies, starts, strict=False):
        with path.open("rb") as file:
            _map_over(joined.ctypes.data + start, size, file.fileno(), offset=offset)
    return joined


def _map_over(address: int, size: int, descriptor: int, *, offset: int) -> None:
    libc_mmap = ctypes.CDLL(None, use_errno=True).mmap
    libc_mmap.restype = ctypes.c_void_p
    libc_mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
    )
    flags = mmap.MAP_SHARED | _MAP_FIXED
    if libc_mmap(address, size, mmap.PROT_READ, flags, descriptor, offset) == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"mapping {size} bytes: {os.strerror(code)}")


def _read(
    bodies: Sequence[tuple[Path, int]], starts: Sequence[int], *, offset: int
) -> UInt8[np.ndarray, " total"]:
    joined = np.empty(starts[-1], np.uint8)
    for (path, size), start in zip(bodies, starts, strict=False):
        joined[start : start + size] = np.fromfile(path, np.uint8, size, offset=offset)
    joined.flags.writeable = False
    return joined
