"""Figures of texts that the junk rules and the language column need, natively or in whole-array operations.

N = documents, C = characters of a slice of them.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.data.characters import PLANES
from weft.data.kernels import address, buffers, library, whole

SCRIPTS = (
    "none", "latin", "han", "kana", "hangul", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "other",
)  # fmt: skip
"""Classes of characters: ``none`` is neither letter nor digit; digits count as ``_DIGIT``."""

_DIGIT = len(SCRIPTS)
_CLASSES = _DIGIT + 1
_SLICE_BYTES = 4 << 20
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measures:
    """One value a document, each [N]."""

    alphanumeric: npt.NDArray[np.float64]
    """Share of letters and digits among the characters that are not white space."""
    script: npt.NDArray[np.object_]
    """The commonest script of the letters, ``none`` without letters."""
    longest_line: npt.NDArray[np.int64]
    """Characters of the longest line."""
    mean_line: npt.NDArray[np.float64]
    """Characters a line."""
    repeated: npt.NDArray[np.float64]
    """Share of characters in lines that repeat an earlier line of the same document."""


def measure(texts: pa.Array) -> Measures:
    """Measure a large_string array without nulls."""
    native = library("measure")
    if native is None:
        return measure_plain(texts)
    data, offsets = buffers(texts)
    table = np.empty((len(offsets) - 1, _CLASSES + 5), np.int64)
    native.measure(
        address(data), address(offsets), *whole(len(table)), address(_table()), *whole(_CLASSES),
        address(table),
    )  # fmt: skip
    spaces, longest, lines, chars, repeated = table[:, _CLASSES:].T
    by_class = table[:, :_CLASSES]
    shares, scripts = _characters(by_class, by_class.sum(axis=1), spaces)
    return Measures(shares, scripts, longest, chars / lines, repeated / np.maximum(chars, 1))


def measure_plain(texts: pa.Array) -> Measures:
    """The same without native code: nothing here loops over documents or characters."""
    if not len(texts):
        none = np.zeros(0)
        return Measures(none, none.astype(object), none.astype(np.int64), none, none)
    parts = [_measure_slice(part) for part in slices(texts)]
    return Measures(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def slices(texts: pa.Array) -> Iterator[pa.Array]:
    """Consecutive slices of about four mebibytes, which bounds the memory of whole-array work."""
    ends = np.cumsum(pc.binary_length(texts).to_numpy(zero_copy_only=False), dtype=np.int64)
    edges = np.flatnonzero(np.diff(ends // _SLICE_BYTES)) + 1
    bounds = [0, *edges.tolist(), len(texts)]
    for start, stop in itertools.pairwise(bounds):
        if stop > start:
            yield texts.slice(start, stop - start)


def _measure_slice(texts: pa.Array) -> tuple[npt.NDArray[Any], ...]:
    count = len(texts)
    codes = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le"), np.uint32)
    lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    classes = _table()[np.minimum(codes, PLANES)]
    owner = np.repeat(np.arange(count) * _CLASSES, lengths)
    by_class = np.bincount(owner + classes, minlength=count * _CLASSES).reshape(count, _CLASSES)
    spaces = _per_document((codes == 0x20) | ((codes >= 0x09) & (codes <= 0x0D)) | (codes == 0x3000), lengths)
    return (*_characters(by_class, lengths, spaces), *_lines(texts))


def _characters(by_class: Counts, lengths: Counts, spaces: Counts) -> tuple[npt.NDArray[Any], ...]:
    """Share of letters and digits, and the script, each [N], from characters by class [N, classes]."""
    letters = by_class[:, 1:_DIGIT]
    script = np.where(letters.any(axis=1), 1 + letters.argmax(axis=1), 0)
    share = by_class[:, 1:].sum(axis=1) / np.maximum(lengths - spaces, 1)
    return share, np.array(SCRIPTS, object)[script]


def _per_document(mask: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(mask, dtype=np.int64)])
    ends = np.cumsum(lengths)
    counts: npt.NDArray[np.int64] = running[ends] - running[ends - lengths]
    return counts


def _lines(texts: pa.Array) -> tuple[npt.NDArray[Any], ...]:
    """Longest line, mean line and share of repeated lines, each [N]."""
    count = len(texts)
    lists = pc.split_pattern(texts, "\n")
    offsets = lists.offsets.to_numpy()
    lines = lists.flatten()
    lengths = pc.utf8_length(lines).to_numpy(zero_copy_only=False).astype(np.int64)
    owner = np.repeat(np.arange(count), np.diff(offsets))
    # Splitting gives every text at least one line, so no segment of reduceat is empty.
    starts = offsets[:-1] - offsets[0]
    longest = np.maximum.reduceat(lengths, starts)
    mean = np.add.reduceat(lengths, starts) / np.diff(offsets)
    codes = lines.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    _, first = np.unique(owner * len(lines) + codes, return_index=True)
    whole = np.bincount(owner, weights=lengths, minlength=count)
    unique = np.bincount(owner[first], weights=lengths[first], minlength=count)
    return longest, mean, (whole - unique) / np.maximum(whole, 1)


@functools.cache
def _table() -> npt.NDArray[np.uint8]:
    """Class of every code point up to PLANES, which stands for all above."""
    table = np.zeros(PLANES + 1, np.uint8)
    categories = [unicodedata.category(chr(code))[0] for code in range(PLANES)]
    kinds = np.array(categories)
    table[:PLANES][(kinds == "L") | (kinds == "M")] = SCRIPTS.index("other")
    table[:PLANES][kinds == "N"] = _DIGIT
    for script, ranges in _RANGES.items():
        for start, stop in ranges:
            part = table[start:stop]
            part[part == SCRIPTS.index("other")] = SCRIPTS.index(script)
    return table


_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x250), (0x1E00, 0x1F00), (0xFF21, 0xFF5B)),
    "han": ((0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, PLANES)),
    "kana": ((0x3040, 0x3100), (0x31F0, 0x3200), (0xFF66, 0xFFA0)),
    "hangul": ((0x1100, 0x1200), (0x3130, 0x3190), (0xAC00, 0xD7B0)),
    "cyrillic": ((0x400, 0x530),),
    "greek": ((0x370, 0x400), (0x1F00, 0x2000)),
    "arabic": ((0x600, 0x780), (0xFB50, 0xFE00), (0xFE70, 0xFF00)),
    "hebrew": ((0x590, 0x600),),
    "devanagari": ((0x900, 0x980),),
}
