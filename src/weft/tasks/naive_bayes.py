"""Multinomial naive Bayes over terms with Laplace's smoothing (Manning et al. 2008, chapter 13).

N texts, C labels, V terms. It stands beside every classifier as a baseline, and with a weight of its own
beside the network itself: words that were counted and words that were read err in different places (Wang and
Manning 2012, arXiv:1412.5335).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core.errors import CheckpointError, DataError
from weft.core.files import write_text_atomic
from weft.data.terms import terms

Floats = npt.NDArray[np.float64]

FILE = "naive_bayes.json"


class NaiveBayes:
    """A classifier of texts; ``labels`` are sorted, and scores are in their order."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Fit. Raises DataError unless there is a text and every text has a label."""
        if not texts or len(texts) != len(labels):
            raise DataError(f"{len(texts)} texts have {len(labels)} labels; give one each, at least one.")
        names = sorted(set(labels))
        counts: dict[str, Counter[str]] = {label: Counter() for label in names}
        for text, label in zip(texts, labels, strict=True):
            counts[label].update(terms(text))
        known = sorted(set().union(*counts.values()))
        table = [[counts[label][term] for term in known] for label in names]
        self._take(names, [list(labels).count(label) for label in names], known, table)

    def _take(
        self, labels: list[str], texts: list[int], known: list[str], counts: Sequence[Sequence[int]]
    ) -> None:
        """``texts``: how many had each label; ``counts`` [C][V]: how often each term stood in these."""
        self.labels, self._texts_C = labels, np.array(texts)
        self._number = {term: n for n, term in enumerate(known)}
        self._counts_CV = np.array(counts, dtype=np.int64).reshape(len(labels), len(known))
        smoothed_CV = np.ones((len(labels), max(len(known), 1)))
        smoothed_CV[:, : len(known)] += self._counts_CV
        self._weights_CV = np.log(smoothed_CV / smoothed_CV.sum(axis=1, keepdims=True))
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
        """Write :data:`FILE` into a checkpoint folder: the counts, by term. Atomic."""
        table = {
            "labels": self.labels,
            "texts": self._texts_C.tolist(),
            "terms": {term: self._counts_CV[:, number].tolist() for term, number in self._number.items()},
        }
        write_text_atomic(folder / FILE, json.dumps(table, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> NaiveBayes:
        """Read it back. CheckpointError for a missing or damaged file."""
        file = folder / FILE
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
            labels, texts, by_term = table["labels"], table["texts"], table["terms"]
            counts = np.array(list(by_term.values()), dtype=np.int64).reshape(len(by_term), len(labels)).T
            whole = sorted(set(labels)) == labels and len(texts) == len(labels) and min(texts) > 0
            if not whole or (counts.size and counts.min() < 0):
                raise ValueError("its counts do not fit its labels")
            made = cls.__new__(cls)
            made._take(labels, texts, list(by_term), counts.tolist())
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({error or type(error).__name__}); copy the checkpoint again."
            ) from error
        return made

    def _known(self, text: str) -> list[int]:
        return [self._number[term] for term in terms(text) if term in self._number]
