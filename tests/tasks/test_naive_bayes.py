"""Naive Bayes by hand, as evidence beside a network, and as a file of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weft.core.errors import DataError
from weft.tasks.naive_bayes import FILE, NaiveBayes

TEXTS = ["Chinese Beijing Chinese", "Chinese Chinese Shanghai", "Chinese Macao", "Tokyo Japan Chinese"]


def test_naive_bayes_equals_the_published_example() -> None:
    # Manning et al. 2008, example 13.1: P(c|d5) is proportional to 3/4 * (3/7)^3 * (1/14)^2.
    model = NaiveBayes(TEXTS, ["c", "c", "c", "j"])
    c, j = 3 / 4 * (3 / 7) ** 3 / 14**2, 1 / 4 * (2 / 9) ** 5
    found = model.probabilities("Chinese Chinese Chinese Tokyo Japan")
    np.testing.assert_allclose(found, [c / (c + j), j / (c + j)])


def test_naive_bayes_reads_chinese_and_text_it_never_saw() -> None:
    model = NaiveBayes(["这产品非常好", "质量太差"], ["正面", "负面"])
    assert model.predict("非常好") == "正面"
    assert model.probabilities("zzz").tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="1 texts have 0 labels"):
        NaiveBayes(["a"], [])


def test_evidence_by_hand() -> None:
    model = NaiveBayes(TEXTS, ["c", "c", "c", "j"])
    found = model.evidence(["Japan, unseen, Chinese", "nothing known"])
    said = np.log([3 / 7 * 1 / 14, 2 / 9 * 2 / 9]) / 2**0.5
    np.testing.assert_allclose(found, [said - said.mean(), [0.0, 0.0]])


def test_a_text_ten_times_as_long_does_not_say_ten_times_as_much() -> None:
    model = NaiveBayes(["很好", "很差"], ["正面", "负面"])
    once, often = model.evidence(["很好", "很好，" * 100])
    np.testing.assert_allclose(often, once * 10)


def test_what_was_saved_says_the_same(tmp_path: Path) -> None:
    model = NaiveBayes([*TEXTS, "质量太差"], ["c", "c", "c", "j", "负面"])
    model.save(tmp_path)
    found = NaiveBayes.parsed(json.loads((tmp_path / FILE).read_text(encoding="utf-8")), ["负面", "j", "c"])
    assert found.labels == model.labels
    texts = ["Tokyo Chinese", "质量差", "unseen"]
    np.testing.assert_array_equal(found.evidence(texts), model.evidence(texts))
    np.testing.assert_array_equal(found.probabilities("太差 Japan"), model.probabilities("太差 Japan"))
    wordless = NaiveBayes(["!", "?"], ["a", "b"])
    wordless.save(tmp_path)
    table = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert NaiveBayes.parsed(table, ["a", "b"]).evidence(["a word"]).tolist() == [[0.0, 0.0]]


GOOD = {"texts": {"a": 1, "b": 2}, "counts": {"a": {"word": 1}, "b": {}}}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"texts": None}, "no counts"),
        ({"counts": 7}, "no counts"),
        ({"texts": {"a": 1}}, "other labels"),
        ({"counts": {"a": {}, "c": {}}}, "other labels"),
        ({"counts": {"a": {}, "b": [1]}}, "a label has no counts"),
        ({"texts": {"a": 0, "b": 2}}, "no positive integer"),
        ({"texts": {"a": float("nan"), "b": 2}}, "no positive integer"),
        ({"counts": {"a": {"word": -1}, "b": {}}}, "no positive integer"),
        ({"counts": {"a": {"word": 1.9}, "b": {}}}, "no positive integer"),
        ({"counts": {"a": {"word": True}, "b": {}}}, "no positive integer"),
        ({"counts": {"a": {"word": "5"}, "b": {}}}, "no positive integer"),
        ({"counts": {"a": {"word": 1 << 80}, "b": {}}}, "no positive integer"),
    ],
)
def test_what_is_damaged_is_told(wrong: dict, why: str) -> None:
    assert NaiveBayes.parsed(GOOD, ["b", "a"]).labels == ["a", "b"]
    with pytest.raises(ValueError, match=why):
        NaiveBayes.parsed(GOOD | wrong, ["a", "b"])
