"""Where the answers of a split of supervised examples lie, and a loader that learns only those."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError
from weft.data import sidecar
from weft.data.cache import BlockCache
from weft.data.loader import Loader
from weft.data.rows import Learnt
from weft.data.supervised_writer import ANSWERS

Ints = npt.NDArray[np.int64]
Long = Literal["drop", "cut"]


@dataclass(frozen=True)
class Answers:
    """Spans of all documents: document i has the spans ``first[i]`` to ``first[i + 1]``.

    ``start`` and ``stop`` [spans] count tokens within the document, in rising order.
    """

    first: Ints
    start: Ints
    stop: Ints

    @classmethod
    def read(cls, prefix: Path) -> Answers:
        """From the sidecar of a split; DataError when its documents are no supervised examples."""
        column = sidecar.columns(prefix, [ANSWERS])[ANSWERS].combine_chunks()
        first = np.asarray(column.offsets.to_numpy(), np.int64) // 2
        flat = np.asarray(column.values.to_numpy(), np.int64)
        return cls(first, flat[0::2], flat[1::2])

    def learnt(self, starts: Ints) -> Learnt:
        """Tells of token numbers in the shard whether they carry loss; ``starts`` [documents]."""
        base = np.repeat(starts, np.diff(self.first))
        edges = np.stack([base + self.start, base + self.stop], 1).ravel()

        def inside(tokens: Ints) -> npt.NDArray[np.bool_]:
            # Between an odd and an even edge lies an answer.
            found: npt.NDArray[np.bool_] = np.searchsorted(edges, tokens, side="right") % 2 == 1
            return found

        return inside

    def first_start(self, documents: int) -> Ints:
        """Where the first answer of each document begins, past any token where it has none."""
        found = np.full(documents, np.iinfo(np.int64).max)
        has = np.flatnonzero(np.diff(self.first))
        found[has] = self.start[self.first[has]]
        return found


class AnswerLoader(Loader):
    """Supervised examples packed under document masks, with loss on the answers only.

    An example is never cut to fill a row. One longer than a row is dropped or cut behind its first
    ``sequence_length`` tokens, as ``long`` says; one without an answer in what is left is dropped.
    :attr:`counts` says how many were kept, cut, too long or left without an answer.
    """

    def __init__(
        self,
        shards_folder: str | Path,
        split: str,
        sequence_length: int,
        batch_rows: int = 1,
        seed: int = 0,
        *,
        long: Long = "drop",
        verify: bool = True,
        prefix: str = "",
        stream: int = 0,
        cache: BlockCache | None = None,
    ) -> None:
        """Raises what :class:`Loader` raises, and DataError when no example is left."""
        self._long = long
        self.counts: dict[str, int] = {}
        super().__init__(
            shards_folder,
            split,
            sequence_length,
            batch_rows,
            seed,
            verify=verify,
            prefix=prefix,
            stream=stream,
            cache=cache,
        )

    def _choose(self) -> Learnt:
        reader, width = self._shards.reader, self.sequence_length
        answers = Answers.read(reader.prefix)
        given = self._lengths
        lengths, self.counts = fitted(given, answers.first_start(len(reader)), width, self._long)
        if not lengths.any():
            raise DataError(
                f"No example of {reader.prefix} fits into {width} tokens ({self.counts}); give longer rows."
            )
        self._lengths = lengths
        self._choice = f"{self._choice}|answers {self._long} {width}"
        return answers.learnt(reader.starts)


def fitted(given: Ints, answer: Ints, width: int, long: Long) -> tuple[Ints, dict[str, int]]:
    """(tokens taken of each example [documents], counts); ``answer``: where its first answer begins."""
    too_long = given > width
    lengths = np.where(too_long, width if long == "cut" else 0, given)
    silent = (lengths > 0) & (answer >= lengths)
    lengths = np.where(silent, 0, lengths)
    counts = {
        "kept": int(np.count_nonzero(lengths)),
        "cut": int((too_long & (lengths > 0)).sum()),
        "too_long": int((too_long & ~silent).sum()) if long == "drop" else 0,
        "no_answer": int(silent.sum()),
    }
    return lengths, counts
