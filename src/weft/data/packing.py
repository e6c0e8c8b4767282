"""Best-fit packing of documents into rows of equal length, with no token lost and none twice.

The stream of a document of n tokens t1..tn is ``eos t1 ... tn eos``. A piece [a, b) of it has the
inputs s[a:b) and the targets s[a+1:b+1), so over all pieces every t and the final eos is a target
exactly once. A shard keeps ``t1 ... tn eos``, which is the list of targets: lengths and starts below
count targets.

Documents longer than a row are cut into rows of their own and a rest; rests and short documents are
placed longest first, each into the fullest row that still has room (best-fit decreasing; Ding et al.,
"Fewer Truncations Improve Language Modeling", arXiv:2404.10830).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core.errors import ResourceError, UsageError
from weft.core.files import write_bytes_atomic
from weft.data.shards import Shards

_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Which piece lies in which row. P = pieces, R = rows.

    ``document`` int64 [P], ``start`` int64 [P] (first target of the piece in its document), ``length``
    int32 [P], and ``row`` int64 [R + 1]: pieces ``row[r]`` to ``row[r + 1]`` fill row r in this order.
    """

    sequence_length: int
    document: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.row) - 1

    @property
    def padding(self) -> float:
        """Share of positions without a target."""
        return 1.0 - float(self.length.sum(dtype=np.int64)) / max(1, self.rows * self.sequence_length)


def plan(shards: Shards, sequence_length: int) -> Plan:
    """The plan for rows of ``sequence_length``: read from beside the shard, or made and saved there.

    A read-only folder is no obstacle; the plan is then made again each time.
    """
    prefix = shards.reader.prefix
    key = hashlib.sha256(f"{_VERSION} {shards.index_hash} {sequence_length}".encode()).hexdigest()
    file = prefix.with_name(f"{prefix.name}.pack-{sequence_length}.npz")
    known = _load(file, key, sequence_length)
    if known is not None:
        return known
    made = pack(shards.reader.lengths, sequence_length)
    _save(file, key, made)
    return made


def pack(lengths: npt.NDArray[np.int64], sequence_length: int) -> Plan:
    """Pack documents with ``lengths`` [documents] targets each into rows of ``sequence_length``."""
    if not 2 <= sequence_length < 1 << 31:
        raise UsageError(f"A sequence length of {sequence_length} is not possible; give at least 2.")
    lengths = np.asarray(lengths, np.int64)
    counts = -(-lengths // sequence_length)
    document = np.repeat(np.arange(len(lengths)), counts)
    first = np.cumsum(counts) - counts
    start = (np.arange(len(document)) - np.repeat(first, counts)) * sequence_length
    length = np.minimum(lengths[document] - start, sequence_length)
    row_of, rows = _best_fit(length, sequence_length)
    # Within a row the longest piece comes first, then in the order of the documents: one fixed order.
    order = np.lexsort((start, document, -length, row_of))
    row = np.searchsorted(row_of[order], np.arange(rows + 1))
    return Plan(sequence_length, document[order], start[order], length[order].astype(np.int32), row)


def _best_fit(length: npt.NDArray[np.int64], capacity: int) -> tuple[npt.NDArray[np.int64], int]:
    """The row of each piece, and the number of rows.

    Rows are kept by the room left in them; a bit mask of the amounts of room in use finds the smallest
    that fits. Pieces of one length are placed many at a time where that is what one at a time would do.
    """
    order = np.argsort(-length, kind="stable")
    row_of = np.empty(len(length), np.int64)
    open_rows: dict[int, list[int]] = {}
    mask = 0
    rows = placed = 0
    values, counts = np.unique(-length, return_counts=True)
    for size, count in zip((-values).tolist(), counts.tolist(), strict=True):
        left = count
        while left:
            fitting = mask >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
            else:
                needed = -(-left // (capacity // size))
                open_rows[capacity] = list(range(rows + needed - 1, rows - 1, -1))
                mask |= 1 << capacity
                rows += needed
                continue
            stack = open_rows[room]
            fill = min(left, room // size)
            if fill == 1:
                many = min(left, len(stack))
                chosen = stack[-many:]
                del stack[-many:]
                each = 1
            else:
                many, each, chosen = 1, fill, [stack.pop()]
            if not stack:
                mask &= ~(1 << room)
            row_of[order[placed : placed + many * each]] = np.repeat(chosen, each)
            placed += many * each
            left -= many * each
            rest = room - size * each
            if rest:
                open_rows.setdefault(rest, []).extend(chosen)
                mask |= 1 << rest
    return row_of, rows


def _load(file: Path, key: str, sequence_length: int) -> Plan | None:
    try:
        with np.load(file, allow_pickle=False) as saved:
            if str(saved["key"]) != key:
                return None
            return Plan(sequence_length, saved["document"], saved["start"], saved["length"], saved["row"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError):
        # A damaged plan is only a lost computation.
        return None


def _save(file: Path, key: str, made: Plan) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer, key=np.array(key), document=made.document, start=made.start, length=made.length, row=made.row
    )
    with contextlib.suppress(ResourceError):
        write_bytes_atomic(file, buffer.getvalue())
