"""Rows of preferences: both answers to a prompt lie in one row, the chosen document before the rejected.

T = positions of a row, P = pairs of a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core import manifest
from weft.core.errors import DataError
from weft.data.answers import Answers
from weft.data.batch import Batch
from weft.data.loader import check_sizes
from weft.data.order import Shuffled
from weft.data.packing import Plan, plan
from weft.data.rows import MappedTokens, Rows
from weft.data.verified import open_verified
from weft.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]

FORM = "preferences"


class PreferenceLoader:
    """Pairs of a folder made by :func:`weft.data.supervised.write` with ``form = "preferences"``.

    Document 2i of the shard is the chosen and 2i + 1 the rejected one of pair i. A row holds whole pairs: of
    its documents with targets the first, third, ... are chosen, and the one behind each is what was rejected
    for it. Only answers are targets. A pair longer than a row is dropped; :attr:`counts` says how many.
    """

    def __init__(
        self,
        shards_folder: str | Path,
        split: str,
        sequence_length: int,
        batch_rows: int = 1,
        seed: int = 0,
    ) -> None:
        """Raises DataError for a folder of another form or without a pair that fits, UsageError for sizes
        that are not possible."""
        check_sizes(batch_rows, seed)
        found = form(Path(shards_folder))
        if found != FORM:
            raise DataError(
                f"{shards_folder} holds {found}, not preferences; make it with weft data supervised --form "
                f"{FORM}."
            )
        self.sequence_length, self.batch_rows, self.seed = sequence_length, batch_rows, seed
        self._shards = open_verified(Path(shards_folder), split)
        reader = self._shards.reader
        answers = Answers.read(reader.prefix)
        if len(reader) % 2 or not np.diff(answers.first).all():
            raise DataError(f"{reader.prefix} holds documents without a pair; make the folder again.")
        lengths = np.asarray(reader.lengths, np.int64).reshape(-1, 2)
        packed = self._pack(lengths)
        learnt = answers.learnt(reader.starts)
        self._rows = Rows(packed, reader.starts, MappedTokens(reader.tokens), self._shards.eos_id, learnt)
        self._order = Shuffled(packed.rows, seed)

    def _pack(self, lengths: Ints) -> Plan:
        """The plan of the documents, from ``lengths`` [P, 2]."""
        width, both = self.sequence_length, lengths.sum(1)
        fits = both <= width
        self.counts = {"kept": int(fits.sum()), "too_long": int((~fits).sum())}
        if not fits.any():
            raise DataError(
                f"No pair of {self._shards.reader.prefix} fits into {width} tokens; the shortest has "
                f"{both.min()}. Give longer rows."
            )
        wanted = np.where(fits, both, 0)
        return apart(plan(self._shards, width, lengths=wanted, name=FORM, max_padding=1.0), lengths)

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self._rows.plan.rows

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of the documents of one epoch, prompts included."""
        return int(self._rows.plan.length.sum(dtype=np.int64))

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

    def batch(self, step: int) -> Batch:
        """Batch number ``step`` (from 0), [batch_rows, T]; past the last row the next epoch goes on."""
        first = step * self.batch_rows
        return self.gather(range(first, first + self.batch_rows))

    def gather(self, samples: range) -> Batch:
        """The rows with these global sample numbers; sample g is row ``g % rows`` of epoch ``g // rows``."""
        return self._rows.assemble(self._order.at(np.arange(samples.start, samples.stop)))

    def sequential(self, batch_rows: int | None = None) -> Iterator[Batch]:
        """Every row exactly once in the order of the plan; the last batch may have fewer rows."""
        size = batch_rows or self.batch_rows
        for first in range(0, self.rows, size):
            yield self._rows.assemble(np.arange(first, min(first + size, self.rows)))


def form(shards_folder: Path) -> str:
    """The form of the examples of a folder of shards; that of other shards is plain text."""
    figures = (manifest.read(shards_folder) or {}).get("figures", {})
    return str(figures.get("form", "plain text"))


def apart(pairs: Plan, lengths: Ints) -> Plan:
    """The plan of documents that follows from one of pairs; ``lengths`` [P, 2] of chosen and rejected."""
    return Plan(
        pairs.sequence_length,
        (2 * pairs.document[:, None] + np.arange(2)).ravel(),
        np.zeros(2 * len(pairs.document), np.int64),
        lengths[pairs.document].ravel().astype(np.int32),
        2 * pairs.row,
        pairs.window,
    )
