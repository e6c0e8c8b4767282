"""Rows of preferences: both answers to a prompt lie in one row, the chosen document before the rejected."""

from __future__ import annotations

import numpy as np

from weft.core.errors import DataError
from weft.data.answers import Answers
from weft.data.couples import CoupleLoader, form
from weft.data.rows import Learnt

__all__ = ["FORM", "PreferenceLoader", "form"]

FORM = "preferences"


class PreferenceLoader(CoupleLoader):
    """Pairs of a folder made by :func:`weft.data.supervised.write` with ``form = "preferences"``.

    Document 2i of the shard is the chosen and 2i + 1 the rejected one of pair i. A row holds whole pairs: of
    its documents with targets the first, third, ... are chosen, and the one behind each is what was rejected
    for it. Only answers are targets. A pair longer than a row is dropped; :attr:`counts` says how many.
    """

    form = FORM

    def _learnt(self) -> Learnt:
        reader = self._shards.reader
        answers = Answers.read(reader.prefix)
        if not np.diff(answers.first).all():
            raise DataError(f"{reader.prefix} holds documents without a pair; make the folder again.")
        return answers.learnt(reader.starts)
