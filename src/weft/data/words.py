"""Hashes of words, n-grams and lines of texts, the same on every machine, with or without a compiler.

A word is a run of letters, marks and digits, folded to lower case; each Han character is a word. N = texts,
W = words of all of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weft.data import characters
from weft.data.kernels import Offsets, address, buffers, library, whole

Hashes = npt.NDArray[np.uint64]
_EMPTY = 0x243F6A8885A308D3
_MULTIPLIER = 0x9E3779B97F4A7C15
_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F)
_ALL = (1 << 64) - 1


def word_hashes(texts: pa.Array) -> tuple[Hashes, Offsets]:
    """The words' hashes [W] of a large_string array [N], and where each text's begin [N + 1]."""
    native = library("words")
    if native is None:
        return word_hashes_plain(texts)
    data, offsets = buffers(texts)
    out = np.empty(offsets[-1] - offsets[0], np.uint64)
    places = np.empty(len(offsets), np.int64)
    native.word_hashes(
        address(data), address(offsets), *whole(len(offsets) - 1), address(characters.flags()),
        address(characters.folded()), address(out), address(places),
    )  # fmt: skip
    return out[: places[-1]].copy(), places


def word_hashes_plain(texts: pa.Array) -> tuple[Hashes, Offsets]:
    """The same without native code."""
    lists = [[_hash(word) for word, _ in words(text or "")] for text in texts.to_pylist()]
    places = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return np.array([value for values in lists for value in values], np.uint64), places


def words(text: str) -> Iterator[tuple[str, int]]:
    """Each folded word of a text and the index of its first character."""
    flags, folded = characters.flags(), characters.folded()
    open_word, begin = "", 0
    for index, character in enumerate(text):
        code = min(ord(character), characters.PLANES)
        han, letter = flags[code] & characters.HAN, int(folded[code])
        if (han or not letter) and open_word:
            yield open_word, begin
            open_word = ""
        if han:
            yield chr(letter), index
        elif letter:
            begin = begin if open_word else index
            open_word += chr(letter)
    if open_word:
        yield open_word, begin


def ngrams(hashes: Hashes, offsets: Offsets, size: int) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """The hash of the ``size`` words from each word on [W - size + 1], and which of these lie in one text."""
    count = max(0, len(hashes) - size + 1)
    value = np.empty(count, np.uint64)
    native = library("words")
    if native is None:
        value = ngram_hashes_plain(hashes, size)
    else:
        native.ngram_hashes(address(hashes), *whole(count, size), address(value))
    inside = np.zeros(len(hashes) + 1, np.bool_)
    inside[offsets[1:-1]] = True
    texts = np.cumsum(inside)
    # A boundary among the later words of an n-gram: an empty text marks the same place twice.
    return value, texts[:count] == texts[size - 1 : size - 1 + count]


def ngram_hashes_plain(hashes: Hashes, size: int) -> Hashes:
    """The hash of the ``size`` words from each word on, without native code."""
    count = max(0, len(hashes) - size + 1)
    value = hashes[:count].copy()
    for position in range(1, size):
        value *= _FACTOR
        value ^= hashes[position : position + count]
        value *= np.uint64(_MULTIPLIER)
        value ^= value >> np.uint64(29)
    return value


def line_hashes(lines: pa.Array) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """Of each line [N] the hash of its letters and digits alone, folded, a number as 0; and how many.

    So "Page 3 of 12" and "page 7 of 9." are one line (CCNet, arXiv:1911.00359, keeps a 0 for each digit).
    """
    native = library("words")
    if native is None:
        return line_hashes_plain(lines)
    data, offsets = buffers(lines)
    out, letters = np.empty(len(offsets) - 1, np.uint64), np.empty(len(offsets) - 1, np.int32)
    native.line_hashes(
        address(data), address(offsets), *whole(len(out)), address(characters.flags()),
        address(characters.folded()), address(out), address(letters),
    )  # fmt: skip
    return out, letters


def line_hashes_plain(lines: pa.Array) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """The same without native code."""
    flags, folded = characters.flags(), characters.folded()
    normal = []
    for line in lines.to_pylist():
        codes = [min(ord(character), characters.PLANES) for character in line or ""]
        kept = [
            "0" if flags[code] & characters.DIGIT else chr(folded[code]) for code in codes if folded[code]
        ]
        normal.append(re.sub("00+", "0", "".join(kept)))
    return np.array([_hash(line) for line in normal], np.uint64), np.array(list(map(len, normal)), np.int32)


@functools.lru_cache(1 << 16)
def _hash(word: str) -> int:
    value = _EMPTY
    for character in word:
        value = (value ^ ord(character)) * _MULTIPLIER & _ALL
        value ^= value >> 29
    return value
