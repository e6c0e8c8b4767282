"""BM25 over an inverted index in memory (Robertson and Zaragoza 2009; the idf of Lucene, never negative)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, UsageError
from weft.data.terms import terms


class Bm25:
    """Documents by number, found by :meth:`search`."""

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        """Index ``documents``. DataError where no document has a term; UsageError for impossible weights."""
        if k1 < 0 or not 0 <= b <= 1:
            raise UsageError(f"BM25 needs k1 >= 0 and b from 0 to 1, not {k1} and {b}.")
        counts = [Counter(terms(document)) for document in documents]
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        if not lengths.sum():
            raise DataError("There is no text to index; give at least one document with words.")
        norm = k1 * (1 - b + b * lengths / lengths.mean())
        listed: dict[str, list[tuple[int, int]]] = {}
        for number, count in enumerate(counts):
            for term, times in count.items():
                listed.setdefault(term, []).append((number, times))
        self._documents = len(counts)
        self._postings: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = {}
        for term, posts in listed.items():
            numbers, times_ = (np.array(column) for column in zip(*posts, strict=True))
            idf = np.log1p((len(counts) - len(posts) + 0.5) / (len(posts) + 0.5))
            self._postings[term] = numbers, idf * times_ / (times_ + norm[numbers])

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """float64 [documents]: the score of each, 0 where it shares no term with ``query``."""
        found = np.zeros(self._documents)
        for term, times in Counter(terms(query)).items():
            if term in self._postings:
                numbers, weights = self._postings[term]
                found[numbers] += times * weights
        return found

    def search(self, query: str, count: int = 10) -> list[tuple[int, float]]:
        """Up to ``count`` (document, score), best first, equal scores in order; only scores above 0."""
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(int(number), float(scores[number])) for number in best if scores[number] > 0]
