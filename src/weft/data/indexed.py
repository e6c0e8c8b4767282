"""Megatron's indexed data set: one ``.bin`` of tokens and one ``.idx`` that says where documents lie.

Layout of the ``.idx``, little-endian (Megatron-LM, ``core/datasets/indexed_dataset.py``)::

    9 bytes   b"MMIDIDX\\x00\\x00"
    uint64    version, 1
    uint8     type of the tokens: 4 = int32, 8 = uint16 (others exist, Weft writes these two)
    uint64    S, number of sequences
    uint64    D, number of document boundaries
    int32[S]  tokens of each sequence
    int64[S]  byte offset of each sequence in the .bin
    int64[D]  sequence at which each document begins, and S at the end

Weft writes one sequence a document, so D = S + 1.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_TYPES: dict[int, type[np.generic]] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16,
}  # fmt: skip


def token_type(vocab_size: int) -> npt.DTypeLike:
    """uint16 when every id fits (under 65,536 tokens), else int32."""
    return np.uint16 if vocab_size < 65536 else np.int32


def write_index(file: Path, lengths: npt.NDArray[np.integer], dtype: npt.DTypeLike) -> None:
    """Write the ``.idx`` for documents of ``lengths`` tokens that lie one after another in the ``.bin``."""
    kind = np.dtype(dtype)
    code = next(code for code, known in _TYPES.items() if np.dtype(known) == kind)
    ends = np.cumsum(lengths, dtype=np.int64) * kind.itemsize
    offsets = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
    with file.open("wb") as stream:
        stream.write(_HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1))
        stream.write(np.asarray(lengths, dtype="<i4").tobytes())
        stream.write(offsets.astype("<i8").tobytes())
        stream.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


class ShardReader:
    """Documents of one ``.bin/.idx`` pair, read through a memory map.

    ``prefix`` is the path without the suffix. Megatron files of other makers open as well: a document
    is all sequences between two boundaries.
    """

    def __init__(self, prefix: str | Path) -> None:
        """Raises DataError when a file is missing, foreign, cut short or inconsistent."""
        self.prefix = Path(prefix)
        self._index_file = self.prefix.with_name(self.prefix.name + ".idx")
        self._token_file = self.prefix.with_name(self.prefix.name + ".bin")
        self.dtype, self._ends = self._read_index()
        self.lengths: npt.NDArray[np.int64] = np.diff(self._ends)
        self._tokens = self._map_tokens()

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def token_count(self) -> int:
        """Tokens of all documents, end-of-text tokens included."""
        return int(self._ends[-1])

    @property
    def tokens(self) -> npt.NDArray[np.integer]:
        """All tokens one after another, [token_count]; document i lies at ``starts[i]``."""
        return self._tokens

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Index in :attr:`tokens` of the first token of each document, [documents]."""
        return self._ends[:-1]

    def document(self, index: int) -> npt.NDArray[np.integer]:
        """Tokens of one document, [length], a view of the map."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self._tokens[self._ends[index] : self._ends[index + 1]]

    def _read_index(self) -> tuple[np.dtype[np.generic], npt.NDArray[np.int64]]:
        raw = self._content(self._index_file)
        if len(raw) < _HEADER.size or raw[:9] != MAGIC:
            raise self._damaged(self._index_file, "it does not begin like a Megatron index")
        _, version, code, sequences, boundaries = _HEADER.unpack_from(raw)
        if version != VERSION or code not in _TYPES:
            raise self._damaged(self._index_file, f"version {version} or token type {code} is unknown")
        if len(raw) < _HEADER.size + 12 * sequences + 8 * boundaries:
            raise self._damaged(self._index_file, f"it is cut short at {len(raw)} bytes")
        dtype = np.dtype(_TYPES[code])
        at = _HEADER.size
        lengths = np.frombuffer(raw, "<i4", sequences, at).astype(np.int64)
        offsets = np.frombuffer(raw, "<i8", sequences, at + 4 * sequences)
        documents = np.frombuffer(raw, "<i8", boundaries, at + 12 * sequences)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        sound = (
            boundaries > 0
            and (lengths >= 0).all()
            and np.array_equal(offsets, ends[:-1] * dtype.itemsize)
            and documents[0] == 0
            and documents[-1] == sequences
            and (np.diff(documents) >= 0).all()
        )
        if not sound:
            raise self._damaged(self._index_file, "its lengths and offsets contradict each other")
        return dtype, ends[documents]

    def _map_tokens(self) -> npt.NDArray[np.integer]:
        try:
            size = self._token_file.stat().st_size
        except FileNotFoundError:
            raise DataError(f"{self._token_file} is missing; run weft data again.") from None
        expected = self.token_count * self.dtype.itemsize
        if size != expected:
            raise self._damaged(self._token_file, f"it has {size} bytes where the index says {expected}")
        if not size:
            return np.zeros(0, self.dtype)
        return np.memmap(self._token_file, self.dtype, mode="r")

    @staticmethod
    def _content(file: Path) -> bytes:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            raise DataError(f"There is no shard {file}; run weft data first, or check the path.") from None

    @staticmethod
    def _damaged(file: Path, what: str) -> DataError:
        return DataError(f"The shard {file} is damaged: {what}; delete its folder and run weft data again.")
