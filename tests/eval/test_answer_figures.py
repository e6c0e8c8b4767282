"""Exact match and F1 of SQuAD 1.1 and CMRC 2018 by hand."""

from __future__ import annotations

import numpy as np
import pytest

from weft.core.errors import DataError
from weft.eval.metrics.answers import answers, cmrc, squad


@pytest.mark.parametrize(
    ("right", "answer", "exact", "f1"),
    [
        ("the Eiffel Tower", "Eiffel  tower.", 1, 1),
        ("An apple", "apple pie", 0, 2 / 3),
        ("a b b", "b b c", 0, 2 * 2 / 5),
        ("U.S.", "us", 1, 1),
        ("half-time", "half time", 0, 0),
        ("the", "", 1, 0),
        ("Beyoncé", "Beyoncé Knowles", 0, 2 / 3),
    ],
)
def test_squad_by_hand(right: str, answer: str, exact: float, f1: float) -> None:
    assert squad(right, answer) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("right", "answer", "exact", "f1"),
    [
        ("《红楼梦》", "红楼梦。", 1, 1),
        # One common stretch of two counts, not the three common characters.
        ("北京大学", "北京市大", 0, 2 * 2 / 8),
        ("GPT-4 模型", "gpt4模型", 0, 1),
        # 1998, 年, 5, 月, 4, 日 against 5, 月: numbers are one piece.
        ("1998年5月4日", "5月", 0, 2 * 2 / 8),
        ("12,000人", "12,000", 0, 2 / 3),
        ("3.5%", "3.5％", 0, 1 / 2),
        ("中国", "日本", 0, 0),
        ("。", "", 1, 0),
    ],
)
def test_cmrc_by_hand(right: str, answer: str, exact: float, f1: float) -> None:
    assert cmrc(right, answer) == (exact, pytest.approx(f1))


def test_pieces_equal_those_of_nltk_where_the_script_is_followed() -> None:
    words = pytest.importorskip("nltk.tokenize").NLTKWordTokenizer()
    for text in ("iphone 4s", "3.5%", "12,000 usd", "a,b", "x#y&z", "(openai)", "km/h", "5'9", "end."):
        # Identical pieces: a text is found in itself, and in its pieces with spaces between them.
        assert cmrc(text, " ".join(words.tokenize(text)))[1] == 1


def test_the_best_of_several_answers_counts() -> None:
    found = answers([["Paris", "the city of Paris"], ["1912", "April 1912"]], ["city of Paris", "May 1912"])
    assert found.exact_each.tolist() == [1, 0]
    np.testing.assert_allclose(found.f1_each, [1, 2 / 3])
    assert (found.exact, found.f1) == (0.5, pytest.approx(5 / 6))
    found = answers([["上海市", "上海"]], ["上海"], "zh")
    assert (found.exact, found.f1) == (1, 1)
    assert found.f1_each.dtype == np.float64


def test_bad_input() -> None:
    with pytest.raises(DataError, match="2 questions got 1 answers"):
        answers([["a"], ["b"]], ["a"])
    with pytest.raises(DataError, match="at least one"):
        answers([], [], "zh")
    for right in ([], "北京"):
        with pytest.raises(DataError, match="Question 1 has no list"):
            answers([["a"], right], ["a", "b"])
