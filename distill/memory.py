"""Keeping freed memory in the process: a training step on a CPU asks for the same memory again.

glibc gives large blocks back to the kernel as soon as they are freed; the next step gets them anew,
page by page, each zeroed. That is a sixth of a small network's step.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 1 << 30  # bytes that a process may hold beyond what it uses
_LARGEST = 1 << 25  # the largest block that glibc lets the heap serve


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees, up to 1 GiB; False with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
