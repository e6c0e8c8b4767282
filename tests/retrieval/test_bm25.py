"""BM25 and its terms."""

from __future__ import annotations

import math

import pytest

from weft.core.errors import DataError, UsageError
from weft.data.terms import terms
from weft.eval.baselines.bm25 import Bm25


def test_terms_of_both_languages() -> None:
    assert terms("Studies of ＣＮＮs在北京市 x_y") == ["study", "of", "cnn", "在北", "北京", "京市", "x", "y"]
    assert terms("bus glass houses 好, 2") == ["bus", "glass", "house", "好", "2"]


def test_scores_equal_the_formula() -> None:
    documents = ["red fox", "red red dog runs", "猫喜欢鱼"]
    mean = sum(len(terms(text)) for text in documents) / 3
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    found = Bm25(documents).scores("red")
    for number, (times, length) in enumerate([(1, 2), (2, 4)]):
        expected = idf * times / (times + 1.2 * (0.25 + 0.75 * length / mean))
        assert found[number] == pytest.approx(expected)
    assert found[2] == 0


def test_search_finds_chinese_and_nothing_where_nothing_is() -> None:
    index = Bm25(["上海在海边", "北京是首都", "dogs"])
    assert [number for number, _ in index.search("首都北京")] == [1]
    assert [number for number, _ in index.search("a dog")] == [2]
    assert index.search("飞机") == index.search("") == []


def test_bad_input() -> None:
    with pytest.raises(DataError, match="no text to index"):
        Bm25(["", " "])
    with pytest.raises(UsageError, match="b from 0 to 1"):
        Bm25(["a"], b=2)
