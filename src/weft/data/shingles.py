"""Exact sets of word n-grams, for the verification of near duplicates; kept in a file, not in memory.

Words are those of :mod:`weft.data.words`: folded, each Han character one. A text of fewer words than an
n-gram has is one n-gram; a text without words has none. N = texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weft.data.kernels import Offsets, address, library, whole
from weft.data.words import ngram_hashes_plain, ngrams, word_hashes

Shingles = npt.NDArray[np.uint64]


class ShingleFile:
    """Sets of shingles in one file of 64-bit numbers, of which memory holds the places only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number: dict[str, int] = {}
        self._ends = [0]

    def __enter__(self) -> ShingleFile:
        self._stream = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def add(self, names: Sequence[str], sets: Sequence[Shingles]) -> None:
        """Append the sets of some documents; the first of equal names counts."""
        for name, shingles in zip(names, sets, strict=True):
            if name not in self._number:
                self._number[name] = len(self._number)
                self._stream.write(shingles.tobytes())
                self._ends.append(self._ends[-1] + len(shingles))

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        """The Jaccard similarity of each pair of names, [P]."""
        self._stream.flush()
        everything = np.memmap(self._path, np.uint64, "r") if self._ends[-1] else np.zeros(0, np.uint64)
        numbers = [(self._number[left], self._number[right]) for left, right in pairs]
        chosen = np.array(numbers, np.int64).reshape(-1, 2)
        return similarities(everything, np.array(self._ends, np.int64), chosen)


def shingle_hashes(texts: pa.Array, ngram: int) -> tuple[Shingles, Offsets]:
    """The hashes of the word n-grams of each text of a large_string array [N], in order, and where each
    text's begin [N + 1]."""
    words, offsets = word_hashes(texts)
    hashes, inside = ngrams(words, offsets, ngram)
    counts = np.diff(offsets)
    short = (counts > 0) & (counts < ngram)
    sizes = np.where(short, 1, np.maximum(counts - ngram + 1, 0))
    places = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    if not short.any():
        return hashes[inside], places
    out = np.empty(places[-1], np.uint64)
    from_short = np.zeros(len(out), np.bool_)
    from_short[places[:-1][short]] = True
    out[~from_short] = hashes[inside]
    for index in np.flatnonzero(short):
        start, stop = offsets[index], offsets[index + 1]
        out[places[index]] = ngram_hashes_plain(words[start:stop], int(stop - start))[0]
    return out, places


def shingle_sets(texts: pa.Array, ngram: int) -> list[Shingles]:
    """The sorted set of the hashes of each text's n-grams, N arrays."""
    hashes, places = shingle_hashes(texts, ngram)
    return [np.unique(hashes[start:stop]) for start, stop in itertools.pairwise(places)]


def similarities(
    shingles: Shingles, offsets: Offsets, pairs: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Size of the intersection over size of the union for ``pairs`` [P, 2] of sorted sets, [P]."""
    native = library("minhash")
    if native is None:
        return similarities_plain(shingles, offsets, pairs)
    begins, ends = offsets[:-1].copy(), offsets[1:].copy()
    left, right = pairs[:, 0].copy(), pairs[:, 1].copy()
    out = np.empty(len(pairs), np.float64)
    native.similarities(
        address(shingles), address(begins), address(ends), address(left), address(right), *whole(len(pairs)),
        address(out),
    )  # fmt: skip
    return out


def similarities_plain(
    shingles: Shingles, offsets: Offsets, pairs: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The same without native code."""
    found = []
    for left, right in pairs:
        one, other = (shingles[offsets[i] : offsets[i + 1]] for i in (left, right))
        common = len(np.intersect1d(one, other, assume_unique=True))
        found.append(common / max(1, len(one) + len(other) - common))
    return np.array(found, np.float64)
