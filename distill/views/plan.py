"""Which view of each sample a pass shows, and in which order an epoch walks the samples.

Legend: n samples asked for, V views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distill.views.hashing import GAMMA, Stream, below, hash64, mix64

if TYPE_CHECKING:
    from jaxtyping import Int64
    from numpy import ndarray

_WORD = (1 << 64) - 1


def pass_views(
    indices: Int64[ndarray, " n"], *, pass_index: int, num_views: int, seed: int
) -> Int64[ndarray, " n"]:
    """The view that each sample shows in a pass: π_i(pass_index mod V), π_i from (seed, i) alone.

    Any V consecutive passes show each of a sample's V views once. Time O(n log V), space O(n).
    The permutation is the swap-or-not shuffle (Hoang, Morris and Rogaway, CRYPTO 2012).
    Raises ValueError for a negative pass or fewer than one view.
    """
    if pass_index < 0:
        raise ValueError(f"pass_index: {pass_index} is negative; passes are counted from 0")
    if not 0 < num_views < 1 << 31:
        raise ValueError(f"num_views: {num_views} is not in 1..2^31-1")
    keys = hash64(Stream.PASS_PLAN, seed, indices)
    position = np.full(len(indices), pass_index % num_views, np.int64)
    for round_index in range(_num_rounds(num_views)):
        subkey = mix64(keys + np.uint64((round_index + 1) * GAMMA & _WORD))
        partner = below(subkey, num_views) - position
        partner += num_views * (partner < 0)
        # The pair {x, K - x} shares one coin, keyed by its larger member: hence a bijection.
        coin = mix64(subkey ^ np.maximum(position, partner).astype(np.uint64)) >> np.uint64(63)
        position = np.where(coin.astype(bool), partner, position)
    return position


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> Int64[ndarray, " n"]:
    """The global order of an epoch: a permutation of 0..num_samples-1 from (seed, epoch) alone.

    Every worker computes the same one, whatever their number. It sorts hashes rather than ask
    numpy's generator, whose shuffles may change between versions.
    """
    hashes = hash64(Stream.EPOCH_ORDER, seed, epoch, np.arange(num_samples, dtype=np.int64))
    return np.argsort(hashes, kind="stable").astype(np.int64)


def _num_rounds(num_views: int) -> int:
    # One position is off from uniform by 2^-rounds; the joint law of many mixes in O(log V) rounds
    # with a constant near 6 (the paper, sec. 5).
    return 8 + 6 * (num_views - 1).bit_length()
