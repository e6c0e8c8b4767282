"""Which kinds of characters a text holds, so that repairs look only at the few texts that need one.

A kind is a bit in a table of all code points; one walk over the bytes finds the kinds of every text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weft.data.characters import PLANES
from weft.data.kernels import address, buffers, library, whole

Table = npt.NDArray[np.uint16]
LEAD, FOLLOWER, PAIR = 1, 2, 4
"""A character of LEAD right before one of FOLLOWER gives the text PAIR."""
FREE = 8
"""The first bit that means what the table's owner wants."""


def table(kinds: Mapping[int, Iterable[int]]) -> Table:
    """The bits of every code point up to PLANES, which stands for all above, from code points by bit."""
    bits = np.zeros(PLANES + 1, np.uint16)
    for bit, codes in kinds.items():
        chosen = [code for code in codes if code < PLANES]
        bits[chosen] |= np.uint16(bit)
    return bits


def traits(texts: pa.Array, kinds: Table) -> npt.NDArray[np.uint16]:
    """Union of the bits of the characters of each text of a large_string array [N]; a null has none."""
    native = library("traits")
    if native is None:
        return traits_plain(texts, kinds)
    data, offsets = buffers(texts)
    out = np.empty(len(offsets) - 1, np.uint16)
    native.traits(address(data), address(offsets), *whole(len(out)), address(kinds), address(out))
    return out


def traits_plain(texts: pa.Array, kinds: Table) -> npt.NDArray[np.uint16]:
    """The same without native code."""
    found = np.zeros(len(texts), np.uint16)
    for row, text in enumerate(texts.to_pylist()):
        codes = np.frombuffer((text or "").encode("utf-32-le"), np.uint32)
        bits = kinds[np.minimum(codes, PLANES)]
        pair = ((bits[:-1] & LEAD) != 0) & ((bits[1:] & FOLLOWER) != 0)
        found[row] = np.bitwise_or.reduce(bits, initial=0) | (PAIR if pair.any() else 0)
    return found
