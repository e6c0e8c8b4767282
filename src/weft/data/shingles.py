"""Exact sets of word n-grams, for the verification of near duplicates."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Shingles = npt.NDArray[np.uint64]
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def shingle_sets(texts: pa.Array, ngram: int) -> list[Shingles]:
    """Sorted hashes of the n-grams of each text [N], whose words are separated by single spaces.

    A text shorter than n words is one n-gram. The hashes agree within one call only.
    """
    lists = pc.split_pattern(texts, " ")
    words = lists.flatten().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.uint64)
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    return [_ngrams(words[start:stop], ngram) for start, stop in itertools.pairwise(offsets)]


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
