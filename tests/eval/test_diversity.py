"""Distinct n-grams by hand."""

from __future__ import annotations

import pytest

from weft.core.errors import DataError
from weft.eval.metrics.diversity import Diversity, diversity


def test_figures_by_hand() -> None:
    texts = [["i", "do", "not", "know"], ["i", "do", "not"], []]
    # Four words and three pairs; not + i, over the end of a text, is none.
    assert diversity(texts) == Diversity(4 / 7, 3 / 7)
    assert diversity([[1, 1, 1, 1]]) == Diversity(1 / 4, 1 / 4)
    assert diversity([[7]]) == Diversity(1.0, 0.0)


def test_a_string_is_its_characters() -> None:
    assert diversity(["我不知道", "我知道"]) == Diversity(4 / 7, 4 / 7)


def test_bad_input() -> None:
    for texts in ([], [[], ""]):
        with pytest.raises(DataError, match="no generated token"):
            diversity(texts)
