"""Batches as a function of their number, of rows that a loader assembles by their place in a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from weft.data.order import Shuffled
from weft.data.shards import Shards
from weft.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]
B = TypeVar("B")


class Assembled(Generic[B]):
    """Rows of one folder of shards in a shuffled order, epoch after epoch."""

    batch_rows: int
    _shards: Shards
    _order: Shuffled

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        raise NotImplementedError

    def _assemble(self, rows: Ints) -> B:
        """The rows with these numbers of the plan."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary that the shards were encoded with."""
        return self._shards.vocab_size

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the tokens in the shards."""
        return self._shards.fingerprint

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """DataError unless the shards were made with exactly this tokenizer."""
        self._shards.check_tokenizer(tokenizer)

    def batch(self, step: int) -> B:
        """Batch number ``step`` (from 0) of ``batch_rows`` rows; past the last row the next epoch goes on."""
        first = step * self.batch_rows
        return self.gather(range(first, first + self.batch_rows))

    def gather(self, samples: range) -> B:
        """The rows with these global sample numbers; sample g is row ``g % rows`` of epoch ``g // rows``."""
        return self._assemble(self._order.at(np.arange(samples.start, samples.stop)))

    def sequential(self, batch_rows: int | None = None) -> Iterator[B]:
        """Every row exactly once in the order of the plan; the last batch may have fewer rows."""
        size = batch_rows or self.batch_rows
        for first in range(0, self.rows, size):
            yield self._assemble(np.arange(first, min(first + size, self.rows)))
