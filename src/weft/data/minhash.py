"""MinHash: signatures of sets of shingles, cut into bands, whose equality makes two documents candidates.

Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4. A permutation of
the shingles is ``(key ^ add) * factor`` modulo 2^32 over the upper half of their hashes. N = sets,
H = permutations, S = shingles of all sets.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt

from weft.data.kernels import Offsets, address, library, whole

Hashes = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.uint32]
HASHES = 128
"""Permutations at most."""
_RECALL = 0.995
_BLOCK = 64
_SEED = 0x5EED0F7EF7
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@functools.cache
def bands(threshold: float) -> tuple[int, int]:
    """``(bands, rows)``: most rows a band such that a pair at ``threshold`` is found 99.5 % of the time."""
    fitting = [
        (HASHES // rows, rows)
        for rows in range(1, HASHES + 1)
        if 1 - (1 - threshold**rows) ** (HASHES // rows) >= _RECALL
    ]
    return fitting[-1]


def band_hashes(shingles: Hashes, offsets: Offsets, threshold: float) -> Hashes:
    """[N, bands]: one number a band of each set; ``shingles`` [S], of which ``offsets`` [N + 1] says whose.

    A set without shingles has the same numbers as any other one: leave it out.
    """
    native = library("minhash")
    if native is None:
        return band_hashes_plain(shingles, offsets, threshold)
    number, rows = bands(threshold)
    add, factor = _permutations()
    scratch = np.empty(len(add), np.uint32)
    out = np.empty((len(offsets) - 1, number), np.uint64)
    native.band_hashes(
        address(shingles), address(offsets), *whole(len(out)), address(add), address(factor),
        *whole(number, rows), address(scratch), address(out),
    )  # fmt: skip
    return out


def band_hashes_plain(shingles: Hashes, offsets: Offsets, threshold: float) -> Hashes:
    """The same without native code."""
    number, rows = bands(threshold)
    add, factor = _permutations()
    keys = (shingles >> np.uint64(32)).astype(np.uint32)
    out = np.empty((len(offsets) - 1, number), np.uint64)
    for index, (start, stop) in enumerate(itertools.pairwise(offsets)):
        values = (keys[start:stop, None] ^ add) * factor
        least = values.min(0, initial=0xFFFFFFFF)[: number * rows].reshape(number, rows)
        hashes = np.arange(1, number + 1, dtype=np.uint64)
        for row in range(rows):
            hashes = (hashes ^ least[:, row].astype(np.uint64)) * _MULTIPLIER
            hashes ^= hashes >> np.uint64(29)
        out[index] = hashes
    return out


@functools.cache
def _permutations() -> tuple[Keys, Keys]:
    """What is mixed into the keys and the odd factors, each [H], fixed for ever."""
    assert HASHES % _BLOCK == 0
    raw = np.random.Philox(_SEED).random_raw(HASHES)
    return (raw >> np.uint64(32)).astype(np.uint32), raw.astype(np.uint32) | np.uint32(1)
