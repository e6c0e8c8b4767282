"""Multinomial naive Bayes over terms with Laplace's smoothing (Manning et al. 2008, chapter 13).

N texts, C labels, V terms. It stands beside every classifier as a baseline, and with a weight of its own
beside the network itself: words that were counted and words that were read err in different places (Wang and
Manning 2012, arXiv:1412.5335).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError
from weft.core.files import write_text_atomic
from weft.data.terms import terms

Floats = npt.NDArray[np.float64]

FILE = "naive_bayes.json"
_MOST = 1 << 53
"""Counts that fp64 tells apart."""


class NaiveBayes:
    """A classifier of texts; ``labels`` are sorted, and scores are in their order."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Fit. Raises DataError unless there is a text and every text has a label."""
        if not texts or len(texts) != len(labels):
            raise DataError(f"{len(texts)} texts have {len(labels)} labels; give one each, at least one.")
        counts: dict[str, Counter[str]] = {label: Counter() for label in sorted(set(labels))}
        for text, label in zip(texts, labels, strict=True):
            counts[label].update(terms(text))
        self._take(Counter(labels), counts)

    def _take(self, texts: Mapping[str, int], counts: Mapping[str, Mapping[str, int]]) -> None:
        """By label: ``texts``, how many had it, and ``counts``, how often each term stood in these."""
        self.labels, self._counts = sorted(counts), counts
        self._texts_C = np.array([texts[label] for label in self.labels])
        self._number = {term: n for n, term in enumerate(sorted(set().union(*counts.values())))}
        table_CV = np.ones((len(self.labels), max(len(self._number), 1)))
        for row, label in enumerate(self.labels):
            for term, times in counts[label].items():
                table_CV[row, self._number[term]] += times
        self._weights_CV = np.log(table_CV / table_CV.sum(axis=1, keepdims=True))
        self._prior_C = np.log(self._texts_C / self._texts_C.sum())

    def probabilities(self, text: str) -> Floats:
        """float64 [C]; terms that were not in training say nothing."""
        scores_C = self._prior_C + self._weights_CV[:, self._known(text)].sum(axis=1)
        odds_C = np.exp(scores_C - scores_C.max())
        found: Floats = odds_C / odds_C.sum()
        return found

    def predict(self, text: str) -> str:
        """The most probable label."""
        return self.labels[int(self.probabilities(text).argmax())]

    def evidence(self, texts: Sequence[str]) -> Floats:
        """float64 [N, C] with mean 0 over labels: what the terms say, to be added to scores before a softmax.

        The sum of each text is divided by the root of how many known terms it has: as if they were
        independent they would outweigh any network in a long text. How frequent a label is, is left out;
        the network knows.
        """
        found = np.zeros((len(texts), len(self.labels)))
        for row, text in enumerate(texts):
            if known := self._known(text):
                said_C = self._weights_CV[:, known].sum(axis=1) / len(known) ** 0.5
                found[row] = said_C - said_C.mean()
        return found

    def save(self, folder: Path) -> None:
        """Write :data:`FILE` into a checkpoint folder: the counts, by label and term. Atomic."""
        texts = dict(zip(self.labels, self._texts_C.tolist(), strict=True))
        table = {"texts": texts, "counts": self._counts}
        write_text_atomic(folder / FILE, json.dumps(table, ensure_ascii=False) + "\n")

    @classmethod
    def parsed(cls, table: Mapping[str, Any], labels: Sequence[str]) -> NaiveBayes:
        """What :meth:`save` wrote, as parsed JSON. ValueError where it is damaged or of other ``labels``."""
        texts, counts = table.get("texts"), table.get("counts")
        if not isinstance(texts, dict) or not isinstance(counts, dict):
            raise ValueError("it holds no counts")
        if not set(texts) == set(counts) == set(labels):
            raise ValueError("it knows other labels than the model")
        if not all(isinstance(of, dict) for of in counts.values()):
            raise ValueError("a label has no counts")
        numbers = [*texts.values(), *(times for of in counts.values() for times in of.values())]
        if not all(type(number) is int and 0 < number < _MOST for number in numbers):
            raise ValueError("a count is no positive integer")
        made = cls.__new__(cls)
        made._take(texts, counts)
        return made

    def _known(self, text: str) -> list[int]:
        return [self._number[term] for term in terms(text) if term in self._number]
