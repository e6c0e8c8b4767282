"""Exact sets of word n-grams, for the verification of near duplicates; kept in a file, not in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

Shingles = npt.NDArray[np.uint64]
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class ShingleFile:
    """Sets of shingles in one file of 64-bit numbers, of which memory holds the places only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

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
            if name not in self._places:
                self._places[name] = (self._end, self._end + len(shingles))
                self._stream.write(shingles.tobytes())
                self._end += len(shingles)

    def read(self) -> dict[str, Shingles]:
        """All sets by name, mapped from the file."""
        self._stream.flush()
        everything = np.memmap(self._path, np.uint64, "r") if self._end else np.zeros(0, np.uint64)
        return {name: everything[start:stop] for name, (start, stop) in self._places.items()}


def shingle_sets(texts: pa.Array, ngram: int) -> list[Shingles]:
    """Sorted hashes of the n-grams of each text [N], whose words are separated by single spaces.

    A text shorter than n words is one n-gram. Equal words have equal hashes in every call.
    """
    lists = pc.split_pattern(texts, " ")
    words = lists.flatten().dictionary_encode()
    known = np.array(
        [xxhash.xxh3_64_intdigest(word) for word in words.dictionary.cast(pa.large_binary()).to_pylist()],
        dtype=np.uint64,
    )
    hashes = known[words.indices.to_numpy(zero_copy_only=False)]
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    return [_ngrams(hashes[start:stop], ngram) for start, stop in itertools.pairwise(offsets)]


def jaccard(left: Shingles, right: Shingles) -> float:
    """Size of the intersection over size of the union."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)


def _ngrams(words: npt.NDArray[np.uint64], ngram: int) -> Shingles:
    size = min(ngram, len(words))
    last = len(words) - size + 1
    value = np.zeros(last, np.uint64)
    for position in range(size):
        value = (value ^ (words[position : position + last] + np.uint64(1))) * _MULTIPLIER
        value ^= value >> np.uint64(31)
    return np.unique(value)
