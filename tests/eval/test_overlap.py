"""The sentence that shares most with the question."""

from __future__ import annotations

import pytest

from weft.core.errors import DataError
from weft.eval.baselines.overlap import overlapping


def test_the_sentence_with_most_of_the_question() -> None:
    context = "It rained all day. Anna went to Rome by train. The end came late."
    assert overlapping("Where did Anna go by train?", context) == "Anna went to Rome by train."
    assert overlapping("上海在哪里？", "今天下雨。上海在中国东部。晚安。") == "上海在中国东部。"


def test_equals_go_to_the_shorter_and_blank_texts_are_refused() -> None:
    assert overlapping("?", "A long sentence here. Short. Short.") == "Short."
    with pytest.raises(DataError, match="blank context"):
        overlapping("who", "  ")
