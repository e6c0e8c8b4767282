"""Rows of texts that mean the same, or that answer each other: a query and its positive, next to each other.

B = rows, T = positions of a row.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import numpy.typing as npt

from weft.data.batch import IGNORED, Batch
from weft.data.couples import CoupleLoader

FORM = "similar"

Ints = npt.NDArray[np.int64]


class SimilarLoader(CoupleLoader):
    """Pairs of a folder made by :func:`weft.data.supervised.write` with ``form = "similar"``.

    Tokens stand in place, for an encoder. The only target of a document stands at its first token and is the
    number of its text: equal texts of a split have equal numbers, so that no text has to be told from
    itself. In the order of a row queries and positives take turns. A pair longer than a row is dropped.
    """

    form = FORM

    def _assemble(self, rows: Ints) -> Batch:
        plain = self._rows.assemble(rows)
        inside = plain.targets != IGNORED
        text = np.where(inside, plain.targets, self._shards.eos_id)
        first = inside & (plain.document_start == np.arange(text.shape[1]))
        targets = np.full(text.shape, IGNORED, np.int64)
        targets[first] = self._numbers[self._documents(rows)]
        return Batch(text, targets, plain.document_start)

    def _documents(self, rows: Ints) -> Ints:
        """The documents of the rows, in their order."""
        plan = self._rows.plan
        pieces = [np.arange(plan.row[row], plan.row[row + 1]) for row in rows]
        found: Ints = plan.document[np.concatenate(pieces)]
        return found

    @cached_property
    def _numbers(self) -> Ints:
        """int64 [documents]: which texts are the same."""
        reader, known = self._shards.reader, dict[bytes, int]()
        ends = reader.starts + np.asarray(reader.lengths, np.int64)
        spans = zip(reader.starts.tolist(), ends.tolist(), strict=True)
        prints = (hashlib.blake2b(reader.tokens[a:b].tobytes(), digest_size=16).digest() for a, b in spans)
        return np.fromiter((known.setdefault(found, len(known)) for found in prints), np.int64, len(reader))
