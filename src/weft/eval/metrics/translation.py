"""BLEU and chrF++ of translations through sacreBLEU, with the signatures that make them comparable.

Post 2018 (arXiv:1804.08771); BLEU: Papineni et al. 2002; chrF++: Popović 2017. Scores are from 0 to 100, as
sacreBLEU and the literature print them. BLEU of a corpus is no mean over its sentences, so its statistics
are kept by sentence: their sums over a resample give its BLEU (Koehn 2004).

The package is imported when it is first needed: ``import weft.eval`` must not need it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, ResourceError
from weft.eval.compare import Comparison, Estimate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Tokenizer = Literal["13a", "zh"]

ORDERS = 4
"""BLEU counts n-grams up to this length."""


@dataclass(frozen=True)
class Bleu:
    """``score`` of the corpus; ``each`` float64 [sentences]: sentence BLEU (shorter orders where a sentence
    has no longer ones).

    ``statistics`` int64 [sentences, 10]: length of the translation, length of the reference, right n-grams
    of order 1 to 4, n-grams of order 1 to 4.
    """

    score: float
    signature: str
    each: Floats
    statistics: Ints


@dataclass(frozen=True)
class Chrf:
    """``score`` of the corpus; ``each`` float64 [sentences]: that of each sentence by itself."""

    score: float
    signature: str
    each: Floats


def tokenizer(language: str) -> Tokenizer:
    """How sacreBLEU cuts a target ``language`` (ISO 639-1): Chinese by characters, others by mteval-v13a."""
    return "zh" if language == "zh" else "13a"


def bleu(
    found: Sequence[str], references: Sequence[str], tokenize: Tokenizer = "13a", *, lowercase: bool = False
) -> Bleu:
    """BLEU of ``found`` against one reference each. DataError for no sentences or unequal numbers."""
    _check(found, references)
    metrics = _sacrebleu()
    whole = metrics.BLEU(tokenize=tokenize, lowercase=lowercase)
    score = float(whole.corpus_score(found, [references]).score)
    single = metrics.BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    scores = [
        single.sentence_score(text, [reference]) for text, reference in zip(found, references, strict=True)
    ]
    rows = [[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores]
    each = np.array([one.score for one in scores], dtype=np.float64)
    return Bleu(score, str(whole.get_signature()), each, np.array(rows, dtype=np.int64))


def chrf(found: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> Chrf:
    """chrF++ (characters to order 6, words to order 2) against one reference each. Errors as :func:`bleu`."""
    _check(found, references)
    metric = _sacrebleu().CHRF(word_order=2, lowercase=lowercase)
    each = [
        metric.sentence_score(text, [reference]).score
        for text, reference in zip(found, references, strict=True)
    ]
    score = float(metric.corpus_score(found, [references]).score)
    return Chrf(score, str(metric.get_signature()), np.array(each, dtype=np.float64))


def corpus_bleu(statistics: Ints) -> float:
    """BLEU of the sentences whose ``statistics`` [sentences, 10] are given."""
    return _bleu_of(statistics.sum(axis=0), _sacrebleu().BLEU.compute_bleu)


def bootstrap(statistics: Ints, *, seed: int = 0, draws: int = 2000) -> Estimate:
    """BLEU and its 95 % interval over resampled sentences. DataError without sentences."""
    drawn = _draw(statistics, statistics, seed, draws)[0]
    return _estimate(corpus_bleu(statistics), drawn)


def paired(first: Ints, second: Ints, *, seed: int = 0, draws: int = 2000) -> Comparison:
    """BLEU of ``first`` minus that of ``second``: every draw takes the same sentences for both systems.

    DataError unless both are statistics of the same sentences.
    """
    one, other = _draw(first, second, seed, draws)
    difference = _estimate(corpus_bleu(first) - corpus_bleu(second), one - other)
    return Comparison(difference, float((one < other).mean()))


def _draw(first: Ints, second: Ints, seed: int, draws: int) -> tuple[Floats, Floats]:
    """float64 [draws] twice: BLEU of both over the same sentences, drawn with replacement."""
    if not len(first) or first.shape != second.shape:
        raise DataError(
            f"Statistics of {len(first)} and {len(second)} sentences cannot be resampled together; "
            "give those of the same sentences, at least one."
        )
    compute = _sacrebleu().BLEU.compute_bleu
    generator = np.random.default_rng(seed)
    found = np.empty((2, draws))
    for draw in range(draws):
        taken = generator.integers(0, len(first), len(first))
        found[:, draw] = [_bleu_of(table[taken].sum(axis=0), compute) for table in (first, second)]
    return found[0], found[1]


def _bleu_of(sums: Ints, compute: Callable[..., Any]) -> float:
    lengths, counts = sums[:2].tolist(), sums[2:].tolist()
    return float(compute(counts[:ORDERS], counts[ORDERS:], *lengths, smooth_method="exp").score)


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _check(found: Sequence[str], references: Sequence[str]) -> None:
    if not references or len(found) != len(references):
        raise DataError(
            f"{len(references)} references got {len(found)} translations; give one for each, at least one."
        )


def _sacrebleu() -> Any:
    try:
        return importlib.import_module("sacrebleu.metrics")
    except ImportError:
        message = "BLEU and chrF need the package sacrebleu; install it with: pip install 'weft[eval]'."
        raise ResourceError(message) from None
