"""Accuracy, F1, recall, confusion; and naive Bayes."""

from __future__ import annotations

import pytest

from weft.core.errors import DataError
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
