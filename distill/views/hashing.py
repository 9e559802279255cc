"""Counter-based random numbers: a hash of integers, the same on every machine and numpy version.

splitmix64 is Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
with Stafford's variant 13 as its finaliser.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: splitmix64's increment
_WORD = (1 << 64) - 1


class Stream(IntEnum):
    """Sets apart what is drawn from equal seeds for different purposes."""

    PASS_PLAN = 1
    EPOCH_ORDER = 2
    AUGMENT = 3
    VALIDATION = 4
    SUBSET = 5


def mix64(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser, elementwise: a bijection of 64-bit words."""
    mixed = words ^ (words >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def hash64(*words: int | NDArray[Any]) -> NDArray[np.uint64]:
    """64 random bits for each tuple of integers; arrays broadcast, the result has an axis."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = mix64((state ^ _as_words(word)) + np.uint64(GAMMA))
    return state


def below(hashes: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
    """Integers in [0, bound) from hashes, bound < 2^32; bias at most bound / 2^32."""
    assert 0 < bound < 1 << 32
    scaled = (hashes >> np.uint64(32)) * np.uint64(bound)
    return (scaled >> np.uint64(32)).astype(np.int64)


def unit(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Floats in [0, 1) from hashes, multiples of 2^-53."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _as_words(word: int | NDArray[Any]) -> NDArray[np.uint64]:
    if isinstance(word, int):
        return np.array([word & _WORD], np.uint64)
    return word.astype(np.uint64)
