"""Entities from memory."""

from __future__ import annotations

import pytest

from weft.core.errors import DataError
from weft.eval.baselines.memory import EntityMemory
from weft.eval.metrics.spans import span_figures


def test_longest_match_and_most_frequent_label() -> None:
    model = EntityMemory(
        ["Washington met New York", "Washington in York", "Washington"],
        [[(0, 10, "PER"), (15, 23, "LOC")], [(0, 10, "LOC"), (14, 18, "ORG")], [(0, 10, "LOC")]],
    )
    assert model.find("New York, York; Washington!") == [(0, 8, "LOC"), (10, 14, "ORG"), (16, 26, "LOC")]
    assert model.find("New Yorkers in 'Yorkshire'") == model.find("") == model.find("new york") == []


def test_chinese_needs_no_spaces() -> None:
    model = EntityMemory(
        ["北京大学在北京", "李娜用iPhone"],
        [[(0, 4, "机构"), (5, 7, "地名")], [(0, 2, "人名"), (3, 9, "产品")]],
    )
    assert model.find("去北京看李娜和北京大学的iPhone") == [
        (1, 3, "地名"),
        (4, 6, "人名"),
        (7, 11, "机构"),
        (12, 18, "产品"),
    ]
    assert model.find("iPhones iPhone3 iPhone。") == [(16, 22, "产品")]


def test_a_shorter_form_serves_where_the_longer_one_is_cut() -> None:
    model = EntityMemory(["York", "York A"], [[(0, 4, "a")], [(0, 6, "b")]])
    assert model.find("York Abbey") == [(0, 4, "a")]


def test_ties_do_not_depend_on_the_order_of_the_data() -> None:
    for labels in ("ab", "ba"):
        model = EntityMemory(["北京"] * 2, [[(0, 2, label)] for label in labels])
        assert model.find("北京") == [(0, 2, "a")]


def test_training_text_is_found_again() -> None:
    texts, spans = ["Ann likes 上海.", "none"], [[(0, 3, "PER"), (10, 12, "LOC")], []]
    model = EntityMemory(texts, spans)
    assert span_figures(spans, [model.find(text) for text in texts]).f1 == 1


def test_bad_input() -> None:
    with pytest.raises(DataError, match="1 texts have 0 lists"):
        EntityMemory(["a"], [])
    with pytest.raises(DataError, match="give one each"):
        EntityMemory([], [])
    for span in ((0, 3, "地名"), (1, 1, "地名"), (-1, 1, "地名")):
        with pytest.raises(DataError, match="'地名' lies outside its text of 2"):
            EntityMemory(["北京"], [[span]])
