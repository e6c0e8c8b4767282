"""Rows of documents that belong together by two: both of a couple always lie in the same row.

T = positions of a row, P = couples of a split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core import manifest
from weft.core.errors import DataError
from weft.data.assembled import Assembled
from weft.data.batch import Batch
from weft.data.loader import check_sizes
from weft.data.order import Shuffled
from weft.data.packing import Plan, plan
from weft.data.rows import Learnt, MappedTokens, Rows
from weft.data.verified import open_verified

Ints = npt.NDArray[np.int64]


class CoupleLoader(Assembled[Batch]):
    """Documents 2i and 2i + 1 of the shard are couple i, and follow each other in one row.

    A couple longer than a row is dropped; :attr:`counts` says how many. What a row tells is up to those that
    are made from this (``form``: what their folder holds).
    """

    form: str

    def __init__(
        self,
        shards_folder: str | Path,
        split: str,
        sequence_length: int,
        batch_rows: int = 1,
        seed: int = 0,
    ) -> None:
        """Raises DataError for a folder of another form or without a couple that fits, UsageError for sizes
        that are not possible."""
        check_sizes(batch_rows, seed)
        found = form(Path(shards_folder))
        if found != self.form:
            raise DataError(
                f"{shards_folder} holds {found}, not {self.form}; make it with weft data supervised --form "
                f"{self.form}."
            )
        self.sequence_length, self.batch_rows, self.seed = sequence_length, batch_rows, seed
        self._shards = open_verified(Path(shards_folder), split)
        reader = self._shards.reader
        if len(reader) % 2:
            raise DataError(f"{reader.prefix} holds a document alone; make the folder again.")
        learnt = self._learnt()
        packed = self._pack(np.asarray(reader.lengths, np.int64).reshape(-1, 2))
        self._rows = Rows(packed, reader.starts, MappedTokens(reader.tokens), self._shards.eos_id, learnt)
        self._order = Shuffled(packed.rows, seed)

    def _learnt(self) -> Learnt | None:
        """Which tokens carry loss, by default all. DataError for documents that cannot be such couples."""
        return None

    def _assemble(self, rows: Ints) -> Batch:
        """The rows with these numbers of the plan."""
        return self._rows.assemble(rows)

    def _pack(self, lengths: Ints) -> Plan:
        """The plan of the documents, from ``lengths`` [P, 2]."""
        width, both = self.sequence_length, lengths.sum(1)
        fits = both <= width
        self.counts = {"kept": int(fits.sum()), "too_long": int((~fits).sum())}
        if not fits.any():
            least = f"the shortest has {both.min()}" if len(both) else "there is none"
            raise DataError(
                f"No pair of {self._shards.reader.prefix} fits into {width} tokens; {least}. Give longer "
                "rows."
            )
        wanted = np.where(fits, both, 0)
        return apart(plan(self._shards, width, lengths=wanted, name=self.form, max_padding=1.0), lengths)

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self._rows.plan.rows

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of the documents of one epoch, prompts included."""
        return int(self._rows.plan.length.sum(dtype=np.int64))


def form(shards_folder: Path) -> str:
    """The form of the examples of a folder of shards; that of other shards is plain text."""
    figures = (manifest.read(shards_folder) or {}).get("figures", {})
    return str(figures.get("form", "plain text"))


def apart(couples: Plan, lengths: Ints) -> Plan:
    """The plan of documents that follows from one of couples; ``lengths`` [P, 2] of both documents."""
    return Plan(
        couples.sequence_length,
        (2 * couples.document[:, None] + np.arange(2)).ravel(),
        np.zeros(2 * len(couples.document), np.int64),
        lengths[couples.document].ravel().astype(np.int32),
        2 * couples.row,
        couples.window,
    )
