"""nDCG, reciprocal rank and recall."""

from __future__ import annotations

import math

import pytest

from weft.core.errors import DataError
from weft.eval.metrics.ranking import ndcg, recall, reciprocal_rank


def test_ndcg_equals_the_sum_by_hand() -> None:
    grades = {"a": 3.0, "b": 2.0, "c": 0.0}
    assert ndcg(["a", "b", "c"], grades) == 1.0
    expected = (2 + 3 / 2) / (3 + 2 / math.log2(3))
    assert ndcg(["b", "x", "a"], grades) == pytest.approx(expected)
    assert ndcg(["x", "a"], grades, cut=1) == 0.0


def test_rank_and_recall() -> None:
    grades = {"a": 1.0, "b": 1.0, "c": 0.0}
    assert reciprocal_rank(["c", "b", "a"], grades) == 0.5
    assert reciprocal_rank(["c"], grades) == 0.0
    assert recall(["c", "b", "a"], grades, cut=2) == 0.5


def test_bad_rankings() -> None:
    with pytest.raises(DataError, match="no relevant document"):
        ndcg(["a"], {"a": 0.0})
    with pytest.raises(DataError, match="twice"):
        recall(["a", "a"], {"a": 1.0})
