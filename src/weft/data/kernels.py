"""The native text kernels (see :mod:`weft.core.native`), and Arrow arrays as they read them.

Without a compiler or with ``WEFT_KERNELS=off`` every user of them has a plain twin.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.core.native import BuildError, load

_SOURCES = Path(__file__).parent / "native"
Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """The library of ``native/<name>.cpp``, compiled on first use (seconds), or None where it cannot be."""
    if os.environ.get("WEFT_KERNELS", "on").lower() in ("off", "0"):
        return None
    try:
        return load([_SOURCES / "unicode.h", _SOURCES / f"{name}.cpp"])
    except BuildError:
        return None


def buffers(texts: pa.Array) -> tuple[Bytes, Offsets]:
    """The UTF-8 bytes of all texts [B] and where each begins [N + 1]; a null is an empty text."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    texts = pc.fill_null(texts.cast(pa.large_string()), "")
    _, places, content = texts.buffers()
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(places, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    return data, offsets


def strings(data: Bytes, offsets: Offsets) -> pa.Array:
    """The large_string array [N] of UTF-8 bytes and offsets; the inverse of :func:`buffers`."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


def address(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    """The pointer of a contiguous array, which lives as long as its pointer does.

    Two threads that meet an empty cache make a table each, and one of the two is owned by nothing else.
    """
    return array.ctypes.data_as(ctypes.c_void_p)


def whole(*numbers: int) -> list[ctypes.c_int64]:
    """64-bit C integers."""
    return [ctypes.c_int64(number) for number in numbers]
