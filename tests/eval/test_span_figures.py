"""Strict F1 of spans by hand and against seqeval."""

from __future__ import annotations

import numpy as np
import pytest

from weft.core.errors import DataError
from weft.eval.metrics.spans import Span, span_figures


def test_figures_by_hand() -> None:
    # 张三住在上海 and "Ann saw Bo"; the second document has a wrong border and a wrong type.
    gold = [[(0, 2, "人"), (4, 6, "地")], [(0, 3, "人"), (8, 10, "人")], []]
    found = [[(0, 2, "人"), (4, 6, "地"), (4, 6, "地")], [(0, 2, "人"), (8, 10, "地")], [(0, 1, "物")]]
    figures = span_figures(gold, found)
    assert (figures.precision, figures.recall) == (2 / 5, 2 / 4)
    assert figures.f1 == pytest.approx(2 * 2 / 9)
    assert figures.hits.tolist() == [2, 0, 0]
    assert figures.found.tolist() == [2, 2, 1]
    assert figures.gold.tolist() == [2, 2, 0]
    assert figures.hits.dtype == np.float64
    people, places, things = (figures.by_label[label] for label in ("人", "地", "物"))
    assert (people.precision, people.recall, people.support) == (1 / 2, 1 / 3, 3)
    assert people.f1 == pytest.approx(0.4)
    assert (places.precision, places.recall, places.support) == (1 / 2, 1.0, 1)
    assert (things.precision, things.recall, things.f1, things.support) == (0, 0, 0, 0)


def test_nothing_found_is_zero() -> None:
    figures = span_figures([[(0, 1, "a")], []], [[], []])
    assert (figures.precision, figures.recall, figures.f1) == (0, 0, 0)
    assert span_figures([[]], [[]]).by_label == {}


def drawn(generator: np.random.Generator, length: int) -> list[Span]:
    spans, at = [], int(generator.integers(0, 3))
    while at < length:
        stop = min(at + int(generator.integers(1, 4)), length)
        spans.append((at, stop, str(generator.choice(["PER", "LOC", "ORG"]))))
        at = stop + int(generator.integers(0, 4))
    return spans


def tags(spans: list[Span], length: int) -> list[str]:
    found = ["O"] * length
    for start, stop, label in spans:
        found[start:stop] = [f"B-{label}"] + [f"I-{label}"] * (stop - start - 1)
    return found


def test_equals_seqeval() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme").IOB2
    generator = np.random.default_rng(0)
    gold = [drawn(generator, 20) for _ in range(50)]
    # Half of the spans are kept, so that there are hits.
    found = [[span for span in spans if generator.random() < 0.5] or drawn(generator, 20) for spans in gold]
    truth, answers = [tags(spans, 20) for spans in gold], [tags(spans, 20) for spans in found]
    figures = span_figures(gold, found)
    options = {"mode": "strict", "scheme": scheme, "zero_division": 0}
    for name in ("precision", "recall", "f1"):
        expected = getattr(seqeval, f"{name}_score")(truth, answers, average="micro", **options)
        assert getattr(figures, name) == pytest.approx(expected)
    table = seqeval.classification_report(truth, answers, output_dict=True, **options)
    for label, row in figures.by_label.items():
        assert row.precision == pytest.approx(table[label]["precision"])
        assert row.recall == pytest.approx(table[label]["recall"])
        assert row.f1 == pytest.approx(table[label]["f1-score"])
        assert row.support == table[label]["support"]
    assert 2 * figures.hits.sum() / (figures.found + figures.gold).sum() == pytest.approx(figures.f1)


def test_bad_input() -> None:
    with pytest.raises(DataError, match="1 gold documents got 0"):
        span_figures([[]], [])
    with pytest.raises(DataError, match="at least one"):
        span_figures([], [])
    for span in ((3, 3, "地名"), (-1, 2, "地名")):
        with pytest.raises(DataError, match="of '地名' is empty or negative"):
            span_figures([[]], [[span]])
