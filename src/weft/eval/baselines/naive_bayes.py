"""Multinomial naive Bayes over terms with Laplace's smoothing (Manning et al. 2008, chapter 13)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError
from weft.data.terms import terms


class NaiveBayes:
    """A classifier fitted on labelled texts; ``labels`` are sorted."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Fit. Raises DataError unless there is a text and every text has a label."""
        if not texts or len(texts) != len(labels):
            raise DataError(f"{len(texts)} texts have {len(labels)} labels; give one each, at least one.")
        self.labels = sorted(set(labels))
        counts: dict[str, Counter[str]] = {label: Counter() for label in self.labels}
        for text, label in zip(texts, labels, strict=True):
            counts[label].update(terms(text))
        self._number = {term: n for n, term in enumerate(sorted(set().union(*counts.values())))}
        table_LV = np.ones((len(self.labels), max(len(self._number), 1)))
        for row, label in enumerate(self.labels):
            for term, times in counts[label].items():
                table_LV[row, self._number[term]] += times
        self._weights_LV = np.log(table_LV / table_LV.sum(axis=1, keepdims=True))
        self._prior_L = np.log([labels.count(label) / len(labels) for label in self.labels])

    def probabilities(self, text: str) -> npt.NDArray[np.float64]:
        """float64 [labels]; terms that were not in training say nothing."""
        known = [self._number[term] for term in terms(text) if term in self._number]
        scores_L = self._prior_L + self._weights_LV[:, known].sum(axis=1)
        odds_L = np.exp(scores_L - scores_L.max())
        found: npt.NDArray[np.float64] = odds_L / odds_L.sum()
        return found

    def predict(self, text: str) -> str:
        """The most probable label."""
        return self.labels[int(self.probabilities(text).argmax())]
