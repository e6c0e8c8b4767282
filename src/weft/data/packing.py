"""Best-fit packing of documents into rows of equal length, with no token lost and none twice.

The stream of a document of n tokens t1..tn is ``eos t1 ... tn eos``. A piece [a, b) of it has the
inputs s[a:b) and the targets s[a+1:b+1), so over all pieces every t and the final eos is a target
exactly once. A shard keeps ``t1 ... tn eos``, which is the list of targets: lengths and starts below
count targets.

Documents longer than a row are cut into rows of their own and a rest; rests and short documents are
placed longest first, each into the fullest row that still has room (best-fit decreasing; Ding et al.,
"Fewer Truncations Improve Language Modeling", arXiv:2404.10830).

Where that leaves more padding than is allowed (a few documents, or most of them a little longer than half
a row), the emptiest rows are given up: their pieces are laid into the room of the others, largest room
first, and cut where a room ends. What is left is the padding allowed, or less than one row.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core.errors import ResourceError, UsageError
from weft.core.files import write_bytes_atomic
from weft.data.shards import Shards

MOST_PADDING = 0.009
"""Share of positions that may be left empty before documents are cut to fill them: under 1 %."""

_VERSION = 2


@dataclass(frozen=True)
class Plan:
    """Which piece lies in which row. P = pieces, R = rows, W = windows.

    ``document`` int64 [P], ``start`` int64 [P] (first target of the piece in its document), ``length``
    int32 [P], and ``row`` int64 [R + 1]: pieces ``row[r]`` to ``row[r + 1]`` fill row r in this order.
    ``window`` int64 [W + 1]: rows ``window[w]`` to ``window[w + 1]`` hold documents that lie together.
    """

    sequence_length: int
    document: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]
    window: npt.NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.row) - 1

    @property
    def padding(self) -> float:
        """Share of positions without a target."""
        return 1.0 - float(self.length.sum(dtype=np.int64)) / max(1, self.rows * self.sequence_length)


def plan(
    shards: Shards,
    sequence_length: int,
    *,
    lengths: npt.NDArray[np.int64] | None = None,
    name: str = "",
    max_padding: float = MOST_PADDING,
    window_targets: int = 0,
    mixed: bool = False,
) -> Plan:
    """The plan for rows of ``sequence_length``: read from beside the shard, or made and saved there.

    ``lengths`` [documents] says how many targets of each document are wanted, 0 leaving it out (default
    all); ``name`` must tell apart how they were chosen. The rest is as in :func:`pack`. A read-only folder
    is no obstacle; the plan is then made again each time.
    """
    prefix = shards.reader.prefix
    asked = f"{name} {max_padding} {window_targets}{' mixed' if mixed else ''}"
    text = f"{_VERSION} {shards.index_hash} {sequence_length} {asked}"
    key = hashlib.sha256(text.encode("utf-8")).hexdigest()
    usual = f" {MOST_PADDING} 0" == asked
    suffix = "" if usual else f"-{hashlib.sha256(asked.encode('utf-8')).hexdigest()[:8]}"
    file = prefix.with_name(f"{prefix.name}.pack-{sequence_length}{suffix}.npz")
    known = _load(file, key, sequence_length)
    if known is not None:
        return known
    wanted = shards.reader.lengths if lengths is None else lengths
    made = pack(wanted, sequence_length, max_padding=max_padding, window_targets=window_targets, mixed=mixed)
    _save(file, key, made)
    return made


def pack(
    lengths: npt.NDArray[np.int64],
    sequence_length: int,
    *,
    max_padding: float = 1.0,
    window_targets: int = 0,
    mixed: bool = False,
) -> Plan:
    """Pack documents with ``lengths`` [documents] targets each into rows of ``sequence_length``.

    Documents no longer than a row are cut only where more than ``max_padding`` of the positions would stay
    empty, by default never. With ``window_targets`` the documents are packed in windows of about so many
    targets in line (rounded up to 128 rows), so that a row is read from one region of the shard. ``mixed``:
    which documents of one length share a row is drawn, always alike, and does not follow their order.
    """
    if not 2 <= sequence_length < 1 << 31:
        raise UsageError(f"A sequence length of {sequence_length} is not possible; give at least 2.")
    lengths = np.asarray(lengths, np.int64)
    packed: list[_Pieces] = []
    for first, stop in _windows(lengths, max(window_targets, 128 * sequence_length) if window_targets else 0):
        whole = _placed(lengths[first:stop], first, sequence_length, mixed)
        packed.append(_cut_to_fill(whole, sequence_length, max_padding))
    edges = np.cumsum([0, *(pieces.rows for pieces in packed)])
    counts = np.concatenate([np.diff(pieces.row_ends()) for pieces in packed])
    return Plan(
        sequence_length,
        np.concatenate([pieces.document for pieces in packed]),
        np.concatenate([pieces.start for pieces in packed]),
        np.concatenate([pieces.length for pieces in packed]).astype(np.int32),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        edges,
    )


@dataclass(frozen=True)
class _Pieces:
    """Pieces in the order of their rows; ``row_of`` [P] is the row of each of them."""

    document: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    row_of: npt.NDArray[np.int64]
    rows: int

    def row_ends(self) -> npt.NDArray[np.int64]:
        return np.searchsorted(self.row_of, np.arange(self.rows + 1))

    def ordered(self) -> _Pieces:
        """Within a row the longest piece first, then in the order of the documents: one fixed order."""
        order = np.lexsort((self.start, self.document, -self.length, self.row_of))
        return _Pieces(
            self.document[order], self.start[order], self.length[order], self.row_of[order], self.rows
        )


def _windows(lengths: npt.NDArray[np.int64], targets: int) -> Iterator[tuple[int, int]]:
    """(first document, document after the last) of windows with at least ``targets`` targets."""
    ends = np.cumsum(lengths)
    count = int(ends[-1]) // targets if targets and len(ends) else 1
    if count <= 1:
        yield 0, len(lengths)
        return
    number = np.minimum((ends - lengths) // targets, count - 1)
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(lengths)]
    yield from itertools.pairwise(edges)


def _placed(lengths: npt.NDArray[np.int64], first: int, width: int, mixed: bool) -> _Pieces:
    counts = -(-lengths // width)
    document = np.repeat(np.arange(len(lengths)), counts)
    start = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * width
    length = np.minimum(lengths[document] - start, width)
    drawn = np.random.default_rng(0).permutation(len(length)) if mixed else np.arange(len(length))
    row_of = np.empty(len(length), np.int64)
    row_of[drawn], rows = _best_fit(length[drawn], width)
    return _Pieces(document + first, start, length, row_of, rows).ordered()


def _cut_to_fill(pieces: _Pieces, width: int, max_padding: float) -> _Pieces:
    """Give up the emptiest rows until no more than ``max_padding`` is left, see the top of the file."""
    total = int(pieces.length.sum())
    allowed = int(total / ((1.0 - max_padding) * width)) if max_padding < 1.0 else pieces.rows
    keep = max(-(-total // width), allowed)
    if pieces.rows <= keep:
        return pieces
    room = width - np.bincount(pieces.row_of, pieces.length, pieces.rows).astype(np.int64)
    emptiest = np.argsort(-room, kind="stable")
    gone, kept = emptiest[: pieces.rows - keep], emptiest[pieces.rows - keep :]
    number = np.full(pieces.rows, -1, np.int64)
    number[np.sort(kept)] = np.arange(keep)
    moved = np.flatnonzero(np.isin(pieces.row_of, gone))
    stay = np.flatnonzero(number[pieces.row_of] >= 0)
    # Pieces and rooms as intervals on one line: every end of either is a cut.
    moved = moved[np.argsort(-pieces.length[moved], kind="stable")]
    piece_ends, room_ends = np.cumsum(pieces.length[moved]), np.cumsum(room[kept])
    cuts = np.union1d(piece_ends, room_ends[room_ends < piece_ends[-1]])
    begins = np.concatenate([np.zeros(1, np.int64), cuts[:-1]])
    piece = np.searchsorted(piece_ends, begins, side="right")
    into = np.searchsorted(room_ends, begins, side="right")
    source = moved[piece]
    inside = begins - (piece_ends[piece] - pieces.length[source])
    return _Pieces(
        np.concatenate([pieces.document[stay], pieces.document[source]]),
        np.concatenate([pieces.start[stay], pieces.start[source] + inside]),
        np.concatenate([pieces.length[stay], cuts - begins]),
        np.concatenate([number[pieces.row_of[stay]], number[kept[into]]]),
        keep,
    ).ordered()


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
            arrays = (saved[name] for name in ("document", "start", "length", "row", "window"))
            return Plan(sequence_length, *arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError):
        # A damaged plan is only a lost computation.
        return None


def _save(file: Path, key: str, made: Plan) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        key=np.array(key),
        document=made.document,
        start=made.start,
        length=made.length,
        row=made.row,
        window=made.window,
    )
    with contextlib.suppress(ResourceError):
        write_bytes_atomic(file, buffer.getvalue())
