"""Batches for models with an encoder and a decoder, from pairs of source and target.

S = positions of a source row, T = positions of a target row. Several pairs share a row, each under its own
mask. A pair takes of both sides the larger of the shares of a row that its source and its target need, so
that packing in one dimension fits both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, UsageError
from weft.data.answers import Answers, Long
from weft.data.assembled import Assembled
from weft.data.batch import IGNORED, PairBatch
from weft.data.loader import check_sizes
from weft.data.order import Shuffled
from weft.data.packing import plan
from weft.data.rows import spread
from weft.data.verified import open_verified

Ints = npt.NDArray[np.int64]


class PairLoader(Assembled[PairBatch]):
    """Pairs of a folder made by :func:`weft.data.supervised.write` with ``form = "pairs"``.

    Source and target both end with the end of text; the decoder's first input is ``start_id``, by default
    the end of text. Pairs that do not fit are dropped or cut: a cut source keeps its end of text, a cut
    target loses it, so that nobody learns to stop there. :attr:`counts` says how many.
    """

    def __init__(
        self,
        shards_folder: str | Path,
        split: str,
        source_length: int,
        target_length: int,
        batch_rows: int = 1,
        seed: int = 0,
        *,
        long: Long = "drop",
        start_id: int | None = None,
    ) -> None:
        """Raises DataError for folders that hold no pairs or none that fits, UsageError for wrong sizes."""
        check_sizes(batch_rows, seed)
        if min(source_length, target_length) < 2:
            raise UsageError(f"Rows of {source_length} and {target_length} tokens are too short for pairs.")
        self.source_length, self.target_length = source_length, target_length
        self.batch_rows, self.seed = batch_rows, seed
        self._shards = open_verified(Path(shards_folder), split)
        self._start_id = self._shards.eos_id if start_id is None else start_id
        reader = self._shards.reader
        answers = Answers.read(reader.prefix)
        if (np.diff(answers.first) != 1).any() or (answers.stop != reader.lengths).any():
            raise DataError(f"{reader.prefix} holds conversations, not pairs; use the answer loader.")
        self._sources, self._targets = answers.start, answers.stop - answers.start
        fits = (self._sources <= source_length) & (self._targets <= target_length)
        self.counts = {
            "kept": int(fits.sum()) if long == "drop" else len(fits),
            "cut": int((~fits).sum()) if long == "cut" else 0,
            "too_long": int((~fits).sum()) if long == "drop" else 0,
        }
        if not self.counts["kept"]:
            raise DataError(
                f"No pair of {reader.prefix} fits into {source_length} and {target_length} tokens."
            )
        width = max(source_length, target_length)
        # Rounded up, so that sums never exceed a row on either side.
        need = np.maximum(
            -(-np.minimum(self._sources, source_length) * width // source_length),
            -(-np.minimum(self._targets, target_length) * width // target_length),
        )
        self._plan = plan(
            self._shards,
            width,
            lengths=need if long == "cut" else np.where(fits, need, 0),
            name=f"pairs {long} {source_length} {target_length}",
            max_padding=1.0,
        )
        self._order = Shuffled(self._plan.rows, seed)

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self._plan.rows

    @property
    def tokens_per_epoch(self) -> int:
        """Targets of one epoch."""
        taken = np.minimum(self._targets, self.target_length)
        return int(taken[self._plan.document].sum())

    def _assemble(self, rows: Ints) -> PairBatch:
        packed, reader, eos = self._plan, self._shards.reader, self._shards.eos_id
        counts = packed.row[rows + 1] - packed.row[rows]
        document = packed.document[spread(packed.row[rows], counts)]
        source, target = self._sources[document], self._targets[document]
        begin = reader.starts[document]
        count = len(rows)

        taken = np.minimum(source, self.source_length)
        where, _ = _places(counts, taken, self.source_length)
        from_source = np.full(count * self.source_length, eos, np.int64)
        source_pair = np.full(count * self.source_length, -1, np.int32)
        from_source[where] = reader.tokens[spread(begin, taken)]
        from_source[where[np.cumsum(taken) - 1]] = eos
        pair = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        source_pair[where] = np.repeat(pair, taken)

        taken = np.minimum(target, self.target_length)
        where, place = _places(counts, taken, self.target_length)
        values = reader.tokens[spread(begin + source, taken)].astype(np.int64)
        inputs = np.empty_like(values)
        inputs[1:] = values[:-1]
        inputs[np.cumsum(taken) - taken] = self._start_id
        size = count * self.target_length
        tokens, targets = np.full(size, eos, np.int64), np.full(size, IGNORED, np.int64)
        target_pair = np.full(size, -1, np.int32)
        document_start = np.tile(np.arange(self.target_length, dtype=np.int32), count)
        tokens[where], targets[where] = inputs, values
        target_pair[where], document_start[where] = np.repeat(pair, taken), np.repeat(place, taken)
        left, right = (count, self.source_length), (count, self.target_length)
        return PairBatch(
            from_source.reshape(left),
            source_pair.reshape(left),
            tokens.reshape(right),
            targets.reshape(right),
            document_start.reshape(right),
            target_pair.reshape(right),
        )


def _places(counts: Ints, lengths: Ints, width: int) -> tuple[Ints, Ints]:
    """(flat position of each token [sum of lengths], place of each piece in its row) of pieces laid in line.

    Rows have ``counts`` [B] pieces of ``lengths`` [sum of counts] each.
    """
    ends = np.cumsum(lengths)
    row = np.repeat(np.arange(len(counts)), counts)
    before = np.concatenate([np.zeros(1, np.int64), ends])[np.cumsum(counts) - counts]
    place = ends - lengths - before[row]
    return spread(row * width + place, lengths), place
