"""Figures of texts that are written, translations and summaries, beside those of baselines.

The scorers are of the kind of :mod:`weft.eval.task_scores`; gold answers are texts. N items.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from weft.eval.metrics import rouge, translation
from weft.eval.standing import Floats, Measure, mean
from weft.eval.task_scores import Guess


class Translations:
    """BLEU, chrF++ and BLEU of lower case of the corpus, by sacreBLEU; points from 0 to 100."""

    def __init__(self, tokenize: translation.Tokenizer = "13a") -> None:
        """``tokenize``: how BLEU cuts texts, ``zh`` where the target is Chinese."""
        self._tokenize = tokenize

    def measures(self, gold: Sequence[str], guesses: Sequence[Guess]) -> list[Measure]:
        """See :class:`weft.eval.task_scores.Scorer`."""
        found = _texts(guesses)
        cased = translation.bleu(found, gold, self._tokenize)
        lower = translation.bleu(found, gold, self._tokenize, lowercase=True)
        return [
            _corpus("bleu", cased.statistics.astype(np.float64), _bleu),
            _chrf(found, gold),
            _corpus("bleu_lowercase", lower.statistics.astype(np.float64), _bleu),
        ]

    def by_label(self, gold: Sequence[str], guesses: Sequence[Guess]) -> list[Measure]:
        """None."""
        return []

    def quality(self, gold: Sequence[str], guesses: Sequence[Guess]) -> Floats:
        """Sentence BLEU, as a share."""
        return translation.bleu(_texts(guesses), gold, self._tokenize).each / 100

    def detail(self, gold: Sequence[str], guesses: Sequence[Guess]) -> dict[str, Any]:
        """``signatures`` of sacreBLEU, and ``lengths``: characters of the answers for each of the gold."""
        found = _texts(guesses)
        # A signature says how texts are compared, not which.
        one = found[:1], gold[:1]
        signatures = {
            "bleu": translation.bleu(*one, self._tokenize).signature,
            "chrf++": translation.chrf(*one).signature,
            "bleu_lowercase": translation.bleu(*one, self._tokenize, lowercase=True).signature,
        }
        return {"signatures": signatures, "lengths": _lengths(found, gold)}


class Summaries:
    """ROUGE-1, 2 and L (F1); Chinese by characters."""

    def __init__(self, language: rouge.Language = "en") -> None:
        """``language``: that of the gold summaries."""
        self._language = language

    def measures(self, gold: Sequence[str], guesses: Sequence[Guess]) -> list[Measure]:
        """See :class:`weft.eval.task_scores.Scorer`."""
        each = self._each(gold, guesses)
        return [mean(name, each[:, place]) for place, name in enumerate(("rouge1", "rouge2", "rougeL"))]

    def by_label(self, gold: Sequence[str], guesses: Sequence[Guess]) -> list[Measure]:
        """None."""
        return []

    def quality(self, gold: Sequence[str], guesses: Sequence[Guess]) -> Floats:
        """ROUGE-L of each."""
        return self._each(gold, guesses)[:, 2]

    def detail(self, gold: Sequence[str], guesses: Sequence[Guess]) -> dict[str, Any]:
        """``lengths``: characters of the answers for each of the gold."""
        return {"lengths": _lengths(_texts(guesses), gold), "language": self._language}

    def _each(self, gold: Sequence[str], guesses: Sequence[Guess]) -> Floats:
        return rouge.rouge(gold, _texts(guesses), self._language).each


def _texts(guesses: Sequence[Guess]) -> list[str]:
    """An item without an answer has an empty one: none of its words is right."""
    return [str(guess.value or "") for guess in guesses]


def _lengths(found: Sequence[str], gold: Sequence[str]) -> float:
    return sum(map(len, found)) / max(1, sum(map(len, gold)))


def _bleu(sums: Floats) -> float:
    return translation.corpus_bleu(sums[None, :].astype(np.int64))


def _corpus(name: str, statistics: Floats, score: Callable[[Floats], float]) -> Measure:
    """A score of summed statistics [N, K], which no formula gives for all draws at once."""
    return Measure(name, statistics, lambda sums: np.array([score(row) for row in sums]), "points")


def _chrf(found: Sequence[str], gold: Sequence[str]) -> Measure:
    metric = importlib.import_module("sacrebleu.metrics").CHRF(word_order=2)
    # sacreBLEU resamples by these two methods itself, but pairs no systems by public ones.
    rows = metric._extract_corpus_statistics(list(found), [list(gold)])
    statistics = np.array(rows, dtype=np.float64)
    return _corpus(
        "chrf++", statistics, lambda sums: float(metric._compute_score_from_stats(list(sums)).score)
    )
