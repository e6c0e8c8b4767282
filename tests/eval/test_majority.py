"""The majority label."""

from __future__ import annotations

import pytest

from weft.core.errors import DataError
from weft.eval.baselines.majority import Majority


def test_the_most_frequent_label_whatever_the_text() -> None:
    model = Majority(["正面", "负面", "负面", "neutral"])
    assert model.labels == ["neutral", "正面", "负面"]
    assert model.predict("非常好") == model.predict() == "负面"
    assert model.probabilities("good").tolist() == [0.25, 0.25, 0.5]


def test_ties_do_not_depend_on_the_order_of_the_data() -> None:
    assert Majority(["b", "a"]).predict() == Majority(["a", "b"]).predict() == "a"


def test_bad_input() -> None:
    with pytest.raises(DataError, match="no label"):
        Majority([])
