"""Batches of packed rows as a pure function of (seed, step).

No state is kept between batches, so a run resumes from one integer, and a batch may be gathered in
parts by any number of processes. B = rows of a batch, T = positions of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from weft.core.errors import DataError, UsageError
from weft.data import sidecar
from weft.data.batch import Batch
from weft.data.cache import BlockCache
from weft.data.order import Order, Shuffled, Windowed
from weft.data.packing import MOST_PADDING, plan
from weft.data.remote import CachedTokens, is_remote, open_remote_split
from weft.data.rows import Learnt, MappedTokens, Rows, Tokens
from weft.data.shards import Shards, open_split
from weft.data.verified import open_verified
from weft.tokenizer import Tokenizer

WINDOW_TOKENS = 1 << 23
"""Targets of a window in which documents are packed together when tokens come over a network."""


class Gathers(Protocol):
    """What a trainer reads: rows by their global number. A loader, a mixture, or either with noise."""

    batch_rows: int

    def gather(self, samples: range) -> Batch:
        """The rows with these global sample numbers."""
        ...


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
        prefix: str = "",
        stream: int = 0,
        cache: BlockCache | None = None,
        max_padding: float = MOST_PADDING,
        mixed: bool = False,
    ) -> None:
        """``prefix`` takes only documents whose source begins so; ``stream`` tells orders of one seed apart.
        ``max_padding`` 1 cuts no document that fits into a row; ``mixed`` as in
        :func:`weft.data.packing.pack`.

        The folder may be a URL (s3, gs, http, https, file); its tokens then pass through ``cache``. Raises
        DataError for missing or damaged shards, UsageError for impossible sizes, ResourceError when the
        network fails.
        """
        check_sizes(batch_rows, seed)
        self.sequence_length, self.batch_rows, self.seed = sequence_length, batch_rows, seed
        self._shards, tokens, window = _open(str(shards_folder), split, verify, cache)
        reader = self._shards.reader
        self._lengths, self._bytes, self._choice = reader.lengths, self._shards.bytes, prefix
        if prefix:
            chosen, self._bytes = sidecar.below(reader.prefix, prefix)
            self._lengths = np.where(chosen, reader.lengths, 0)
        learnt = self._choose()
        made = plan(
            self._shards,
            sequence_length,
            lengths=self._lengths,
            name=self._choice,
            max_padding=max_padding if learnt is None else 1.0,
            window_targets=window,
            mixed=mixed,
        )
        self._rows = Rows(made, reader.starts, tokens, self._shards.eos_id, learnt)
        self._order: Order = (
            Windowed(made.window, _group(cache, reader.dtype.itemsize), seed, stream)
            if window and cache
            else Shuffled(made.rows, seed, stream)
        )

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self._rows.plan.rows

    @property
    def tokens_per_epoch(self) -> int:
        """Targets of one epoch: every token of the split and one end of text a document."""
        return int(self._lengths.sum())

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the documents of the split: what bits per byte divide by."""
        return self._bytes

    @property
    def documents(self) -> int:
        """Documents of the split."""
        return int(np.count_nonzero(self._lengths))

    @property
    def padding(self) -> float:
        """Share of positions without a target."""
        return self._rows.plan.padding

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary that the shards were encoded with."""
        return self._shards.vocab_size

    @property
    def eos_id(self) -> int:
        """The end of text, which padding positions hold."""
        return self._shards.eos_id

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer that made the shards."""
        return self._shards.tokenizer_fingerprint

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the tokens and their order in the shards, and of what was chosen from them."""
        if not self._choice:
            return self._shards.fingerprint
        return hashlib.sha256(f"{self._shards.fingerprint} {self._choice}".encode()).hexdigest()

    @property
    def resident_bytes(self) -> int:
        """Memory that stays in use: index and plan, at most one epoch's order, not the memory map."""
        made, reader = self._rows.plan, self._shards.reader
        arrays = (made.document, made.start, made.length, made.row, reader.starts, self._lengths)
        return sum(array.nbytes for array in arrays) + 2 * 8 * min(made.rows, 1 << 20)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """DataError unless the shards were made with exactly this tokenizer."""
        self._shards.check_tokenizer(tokenizer)

    def batch(self, step: int) -> Batch:
        """Batch number ``step`` (from 0), [batch_rows, T]; past the last row the next epoch goes on."""
        first = step * self.batch_rows
        return self.gather(range(first, first + self.batch_rows))

    def gather(self, samples: range) -> Batch:
        """The rows with these global sample numbers; sample g is row ``g % rows`` of epoch ``g // rows``."""
        return self.take(np.arange(samples.start, samples.stop))

    def take(self, places: np.typing.NDArray[np.int64]) -> Batch:
        """The rows at these places [n] of the endless sequence of epochs."""
        return self._rows.assemble(self._order.at(places))

    def sequential(self, batch_rows: int | None = None) -> Iterator[Batch]:
        """Every row exactly once in the order of the plan; the last batch may have fewer rows."""
        size = batch_rows or self.batch_rows
        for first in range(0, self.rows, size):
            yield self._rows.assemble(np.arange(first, min(first + size, self.rows)))

    def _choose(self) -> Learnt | None:
        """Where other shards are read otherwise: change lengths and choice, say which tokens carry loss."""
        return None


def share(loader: Gathers, step: int, rank: int, world_size: int) -> Batch:
    """The part of batch ``step`` that process ``rank`` of ``world_size`` reads, rows in line.

    All parts together are the batch, whatever the number of processes; parts differ by one row at most.
    """
    return loader.gather(shared_rows(loader.batch_rows, step, rank, world_size))


def shared_rows(batch_rows: int, step: int, rank: int, world_size: int) -> range:
    """The global numbers of the rows of :func:`share`."""
    if not 0 <= rank < world_size:
        raise UsageError(f"Rank {rank} of {world_size} processes is not possible.")
    first = step * batch_rows
    return range(first + batch_rows * rank // world_size, first + batch_rows * (rank + 1) // world_size)


def check_sizes(batch_rows: int, seed: int) -> None:
    """UsageError for a batch without rows or a seed that is no 64-bit number."""
    if batch_rows < 1:
        raise UsageError(f"A batch of {batch_rows} rows is not possible; give at least 1.")
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"The seed {seed} is not possible; give a whole number from 0 to 2^64 - 1.")


def _open(folder: str, split: str, verify: bool, cache: BlockCache | None) -> tuple[Shards, Tokens, int]:
    """The shards, their tokens, and the targets of a window (0: all documents together)."""
    if not is_remote(folder):
        shards = open_verified(Path(folder), split) if verify else open_split(folder, split, verify=False)
        return shards, MappedTokens(shards.reader.tokens), 0
    if cache is None:
        raise DataError(f"{folder} is not on this machine; give a cache, [stream] in the run file.")
    shards, file, key = open_remote_split(folder, split, cache.folder)
    return shards, CachedTokens(file, key, cache, shards.reader.dtype), WINDOW_TOKENS


def _group(cache: BlockCache, item: int) -> int:
    """Windows shuffled together: so many that two groups fit into the cache."""
    return max(1, cache.max_bytes // (2 * 2 * WINDOW_TOKENS * item))
