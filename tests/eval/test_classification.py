"""Accuracy, F1, recall, confusion; and naive Bayes."""

from __future__ import annotations

import numpy as np
import pytest

from weft.core.errors import DataError
from weft.eval.baselines.naive_bayes import NaiveBayes
from weft.eval.metrics.classification import classification


def test_figures_by_hand() -> None:
    found = classification(["正", "正", "负", "负"], ["正", "负", "负", "负"], ["正", "负", "中"])
    assert found.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found.accuracy == 0.75
    assert found.recall.tolist() == [0.5, 1.0, 0.0]
    # The label that never occurs is no zero in the mean.
    assert found.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_bad_labels() -> None:
    with pytest.raises(DataError, match="'x' is not among a, b"):
        classification(["a"], ["x"], ["a", "b"])
    with pytest.raises(DataError, match="2 gold labels got 1"):
        classification(["a", "a"], ["a"], ["a"])


def test_naive_bayes_equals_the_published_example() -> None:
    # Manning et al. 2008, example 13.1: P(c|d5) is proportional to 3/4 * (3/7)^3 * (1/14)^2.
    texts = ["Chinese Beijing Chinese", "Chinese Chinese Shanghai", "Chinese Macao", "Tokyo Japan Chinese"]
    model = NaiveBayes(texts, ["c", "c", "c", "j"])
    c, j = 3 / 4 * (3 / 7) ** 3 / 14**2, 1 / 4 * (2 / 9) ** 5
    found = model.probabilities("Chinese Chinese Chinese Tokyo Japan")
    np.testing.assert_allclose(found, [c / (c + j), j / (c + j)])


def test_naive_bayes_reads_chinese_and_text_it_never_saw() -> None:
    model = NaiveBayes(["这产品非常好", "质量太差"], ["正面", "负面"])
    assert model.predict("非常好") == "正面"
    assert model.probabilities("zzz").tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="1 texts have 0 labels"):
        NaiveBayes(["a"], [])
