"""BM25 over an inverted index (Robertson and Zaragoza 2009; the idf of Lucene, never negative)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, UsageError
from weft.retrieval.counts import Counts, Vocabulary, count

Floats = npt.NDArray[np.float64]

K1, B = 1.2, 0.75


class Bm25:
    """Documents by number, found by :meth:`search`."""

    def __init__(self, documents: Sequence[str], k1: float = K1, b: float = B) -> None:
        """Index ``documents``. DataError where no document has a term; UsageError for impossible weights."""
        self._fill(count(documents), k1, b)

    @classmethod
    def of(cls, counts: Counts, k1: float = K1, b: float = B) -> Bm25:
        """The same of terms that were counted already."""
        made = cls.__new__(cls)
        made._fill(counts, k1, b)
        return made

    def _fill(self, counts: Counts, k1: float, b: float) -> None:
        if k1 < 0 or not 0 <= b <= 1:
            raise UsageError(f"BM25 needs k1 >= 0 and b from 0 to 1, not {k1} and {b}.")
        vocabulary, lengths, owners = counts.vocabulary, counts.lengths, counts.owners
        norm = k1 * (1 - b + b * lengths / lengths.mean())
        weights = vocabulary.idf[counts.numbers] * counts.times / (counts.times + norm[owners])
        # Postings lie together by term, those of a term in the order of the documents.
        order = np.argsort(counts.numbers, kind="stable")
        self.vocabulary = vocabulary
        self._starts = np.concatenate([[0], np.cumsum(vocabulary.frequencies)])
        self._documents = owners[order].astype(np.int32)
        self._weights = weights[order].astype(np.float32)

    def scores(self, query: str) -> Floats:
        """float64 [documents]: the score of each, 0 where it shares no term with ``query``."""
        found = np.zeros(self.vocabulary.passages)
        for term, times in zip(*self.vocabulary.known(query), strict=True):
            posts = slice(self._starts[term], self._starts[term + 1])
            found[self._documents[posts]] += times * self._weights[posts]
        return found

    def search(self, query: str, count: int = 10) -> list[tuple[int, float]]:
        """Up to ``count`` (document, score), best first, equal scores in order; only scores above 0."""
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(int(number), float(scores[number])) for number in best if scores[number] > 0]

    def covered(self, terms: Collection[str]) -> Floats:
        """float64 [documents]: which part of the idf mass of ``terms`` each document holds, 0 to 1."""
        found = np.zeros(self.vocabulary.passages)
        total = sum(self.vocabulary.weight(term) for term in terms)
        for term in terms:
            number = self.vocabulary.numbers.get(term)
            if number is not None:
                posts = slice(self._starts[number], self._starts[number + 1])
                found[self._documents[posts]] += self.vocabulary.idf[number] / total
        return found

    def save(self, file: Path) -> None:
        """Write an ``.npz`` file that holds arrays only; terms lie in it as lines of UTF-8."""
        names = "\n".join(self.vocabulary.names).encode("utf-8", "surrogatepass")
        np.savez(
            file,
            names=np.frombuffer(names, np.uint8),
            frequencies=self.vocabulary.frequencies,
            passages=np.int64(self.vocabulary.passages),
            documents=self._documents,
            weights=self._weights,
        )

    @classmethod
    def open(cls, file: Path) -> Bm25:
        """What :meth:`save` wrote; DataError where the file is missing or damaged. No pickle is opened."""
        made = cls.__new__(cls)
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as read:
                names = read["names"].tobytes().decode("utf-8", "surrogatepass").split("\n")
                made.vocabulary = Vocabulary(tuple(names), read["frequencies"], int(read["passages"]))
                made._documents, made._weights = read["documents"], read["weights"]
        except Exception as error:  # whatever a file that is not ours makes zipfile and numpy raise
            raise DataError(f"The index file {file} is missing or damaged; build the index again.") from error
        made._starts = np.concatenate([[0], np.cumsum(made.vocabulary.frequencies)])
        return made
