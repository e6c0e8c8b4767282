"""Batches of packed rows as a pure function of (seed, step).

No state is kept between batches, so a run resumes from one integer, and a batch may be gathered in
parts by any number of processes. B = rows of a batch, T = positions of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core.errors import UsageError
from weft.data.batch import IGNORED, Batch
from weft.data.packing import plan
from weft.data.shards import open_split
from weft.tokenizer import Tokenizer


class Loader:
    """The packed rows of one split of a shards folder, in an order drawn from ``seed`` each epoch."""

    def __init__(
        self,
        shards_folder: str | Path,
        split: str,
        sequence_length: int,
        batch_rows: int = 1,
        seed: int = 0,
        *,
        verify: bool = True,
    ) -> None:
        """Raises DataError for missing or damaged shards, UsageError for impossible sizes."""
        if batch_rows < 1:
            raise UsageError(f"A batch of {batch_rows} rows is not possible; give at least 1.")
        if not 0 <= seed < 1 << 64:
            raise UsageError(f"The seed {seed} is not possible; give a whole number from 0 to 2^64 - 1.")
        self._shards = open_split(shards_folder, split, verify=verify)
        self._plan = plan(self._shards, sequence_length)
        self.sequence_length, self.batch_rows, self.seed = sequence_length, batch_rows, seed
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self._plan.rows

    @property
    def tokens_per_epoch(self) -> int:
        """Targets of one epoch: every token of the split and one end of text a document."""
        return self._shards.reader.token_count

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the documents of the split: what bits per byte divide by."""
        return self._shards.bytes

    @property
    def documents(self) -> int:
        """Documents of the split."""
        return len(self._shards.reader)

    @property
    def padding(self) -> float:
        """Share of positions without a target."""
        return self._plan.padding

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary that the shards were encoded with."""
        return self._shards.vocab_size

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer that made the shards."""
        return self._shards.tokenizer_fingerprint

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the tokens and their order in the shards."""
        return self._shards.fingerprint

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """DataError unless the shards were made with exactly this tokenizer."""
        self._shards.check_tokenizer(tokenizer)

    def batch(self, step: int) -> Batch:
        """Batch number ``step`` (from 0), [batch_rows, T]; past the last row the next epoch goes on."""
        first = step * self.batch_rows
        return self.gather(range(first, first + self.batch_rows))

    def gather(self, samples: range) -> Batch:
        """The rows with these global sample numbers; sample g is row ``g % rows`` of epoch ``g // rows``."""
        order = [self._order(g // self.rows)[g % self.rows] for g in samples]
        return self._assemble(np.asarray(order, np.int64))

    def sequential(self, batch_rows: int | None = None) -> Iterator[Batch]:
        """Every row exactly once in the order of the plan; the last batch may have fewer rows."""
        size = batch_rows or self.batch_rows
        for first in range(0, self.rows, size):
            yield self._assemble(np.arange(first, min(first + size, self.rows)))

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        known = self._orders.get(epoch)
        if known is None:
            # Raw bits of a counter-based generator: numpy fixes this stream for all its versions, which
            # it does not promise of Generator.permutation.
            bits = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(self.rows)
            known = np.argsort(bits, kind="stable")
            # A batch touches two epochs at most.
            self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) == 1} | {epoch: known}
        return known

    def _assemble(self, rows: npt.NDArray[np.int64]) -> Batch:
        pack, reader = self._plan, self._shards.reader
        eos, width = self._shards.eos_id, self.sequence_length
        tokens = np.full((len(rows), width), eos, np.int64)
        targets = np.full((len(rows), width), IGNORED, np.int64)
        document_start = np.tile(np.arange(width, dtype=np.int32), (len(rows), 1))
        for index, row in enumerate(rows.tolist()):
            at = 0
            for piece in range(pack.row[row], pack.row[row + 1]):
                start, length = int(pack.start[piece]), int(pack.length[piece])
                begin = int(reader.starts[pack.document[piece]]) + start
                span = slice(at, at + length)
                targets[index, span] = reader.tokens[begin : begin + length]
                tokens[index, at] = eos if start == 0 else reader.tokens[begin - 1]
                tokens[index, at + 1 : at + length] = targets[index, at : at + length - 1]
                document_start[index, span] = at
                at += length
        return Batch(tokens, targets, document_start)
