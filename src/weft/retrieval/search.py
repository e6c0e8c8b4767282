"""Finding passages: by words, by vectors, by both, and in the order of a model that reads them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from weft.core.errors import UsageError
from weft.core.registry import lookup
from weft.retrieval import hybrid
from weft.retrieval.bm25 import Bm25
from weft.retrieval.counts import Floats
from weft.retrieval.dense import Embedder, Vectors
from weft.retrieval.passages import Passage

WAYS = ("bm25", "dense", "hybrid")
DENSE_WEIGHT = 0.4
"""What dense scores count in hybrid search; see docs/decisions/retrieval.md for what was measured."""
FEEDBACK = 3
"""In hybrid search the query's vector is moved to so many best passages of BM25."""
RERANKED = 50


@dataclass(frozen=True)
class Hit:
    """A passage that was found: ``text`` is ``[start, end)`` of its document's text; scores compare only
    within one search."""

    document: str
    title: str
    start: int
    end: int
    text: str
    score: float
    passage: int

    def table(self) -> dict[str, Any]:
        """As JSON spells it."""
        return asdict(self)


class Reranker(Protocol):
    """A model that reads a query together with passages."""

    def __call__(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """A score for each passage, higher is better."""
        ...


class Searcher:
    """Passages with their BM25 index and vectors [N, K]; ``embedder`` makes the vector of a query."""

    def __init__(
        self,
        passages: Sequence[Passage],
        bm25: Bm25,
        vectors: Vectors,
        embedder: Callable[[], Embedder],
        dense_weight: float = DENSE_WEIGHT,
    ) -> None:
        self.passages, self.bm25, self._vectors = passages, bm25, vectors
        self._make, self._weight = embedder, dense_weight

    @cached_property
    def embedder(self) -> Embedder:
        """Opened by the first search that needs it."""
        return self._make()

    def scores(self, query: str, how: str = "hybrid") -> Floats:
        """float64 [N]: how well each passage fits; 0 or less: not at all.

        Raises UsageError for an empty query or an unknown way.
        """
        lookup(dict.fromkeys(WAYS), how, "way of searching")
        if not query.strip():
            raise UsageError("The query is empty; give at least one word.")
        if how == "bm25":
            return self.bm25.scores(query)
        own = self.embedder.vectors([query])[0]
        if how == "dense":
            return self._alike(own)
        lexical = self.bm25.scores(query)
        moved = hybrid.fed_back(own, lexical, self._vectors, FEEDBACK)
        return hybrid.weighted_sum(lexical, np.maximum(self._alike(moved), 0), self._weight)

    def _alike(self, vector: Vectors) -> Floats:
        return (self._vectors @ vector).astype(np.float64)

    def search(
        self, query: str, k: int = 10, how: str = "hybrid", reranker: Reranker | None = None
    ) -> list[Hit]:
        """Up to ``k`` passages, best first; fewer where fewer fit. ``reranker`` orders the first 50 anew.

        Raises UsageError for an empty query, an unknown way or ``k`` below 1.
        """
        if k < 1:
            raise UsageError(f"{k} passages cannot be found; ask for at least 1.")
        scores = self.scores(query, how)
        best = np.argsort(-scores, kind="stable")[: max(k, RERANKED) if reranker else k]
        hits = [self._hit(int(number), float(scores[number])) for number in best if scores[number] > 0]
        return _again(query, hits, reranker)[:k] if reranker else hits

    def _hit(self, number: int, score: float) -> Hit:
        one = self.passages[number]
        return Hit(one.document, one.title, one.start, one.end, one.text, score, number)


def _again(query: str, hits: Sequence[Hit], reranker: Reranker) -> list[Hit]:
    scores = list(reranker(query, [hit.text for hit in hits])) if hits else []
    if len(scores) != len(hits):
        raise UsageError(
            f"The reranker gave {len(scores)} scores for {len(hits)} passages; it must give one each."
        )
    pairs = sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])
    return [Hit(**{**asdict(hit), "score": float(score)}) for score, hit in pairs]
