"""Precision, recall and F1 of labelled spans: strict, as seqeval and the CoNLL 2003 shared task count them.

A span is found when its type and both of its borders are right; part of it is worth nothing. Figures are
micro over all documents (Tjong Kim Sang and De Meulder 2003).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError

Span = tuple[int, int, str]
"""(start, stop, label): ``stop`` is behind the last character or token."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelFigures:
    """Figures of one label; ``support``: its gold spans."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class SpanFigures:
    """Micro figures, those of each label (sorted), and counts float64 [documents] for a bootstrap.

    F1 is ``2 hits / (found + gold)``, so :func:`weft.eval.compare.ratio` of ``2 * hits`` and
    ``found + gold`` gives its interval, where every document has a span.
    """

    precision: float
    recall: float
    f1: float
    by_label: dict[str, LabelFigures]
    hits: Floats
    found: Floats
    gold: Floats


def span_figures(gold: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]]) -> SpanFigures:
    """Compare the spans of each document; one that is given twice counts once.

    A share of nothing is 0. DataError for no documents, unequal numbers of them, or an impossible span.
    """
    if not gold or len(gold) != len(found):
        raise DataError(f"{len(gold)} gold documents got {len(found)} answers; give one each, at least one.")
    wanted, given = [_checked(spans) for spans in gold], [_checked(spans) for spans in found]
    both = [left & right for left, right in zip(wanted, given, strict=True)]
    hits, answers, support = _by_label(both), _by_label(given), _by_label(wanted)
    table = {
        label: LabelFigures(*_shares(hits[label], answers[label], support[label]), support[label])
        for label in sorted(support | answers)
    }
    precision, recall, f1 = _shares(hits.total(), answers.total(), support.total())
    return SpanFigures(precision, recall, f1, table, _sizes(both), _sizes(given), _sizes(wanted))


def _checked(spans: Sequence[Span]) -> set[Span]:
    for start, stop, label in spans:
        if not 0 <= start < stop:
            raise DataError(
                f"The span {start} to {stop} of {label!r} is empty or negative; correct the data."
            )
    return {(start, stop, label) for start, stop, label in spans}


def _by_label(documents: Iterable[set[Span]]) -> Counter[str]:
    return Counter(label for spans in documents for _, _, label in spans)


def _sizes(documents: Sequence[set[Span]]) -> Floats:
    return np.array([len(spans) for spans in documents], dtype=np.float64)


def _shares(hits: int, found: int, gold: int) -> tuple[float, float, float]:
    """Precision, recall and F1; an empty denominator has no hits either, so 1 serves in its place."""
    return hits / max(found, 1), hits / max(gold, 1), 2 * hits / max(found + gold, 1)
