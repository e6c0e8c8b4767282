"""ROUGE against the package and, for Chinese, by hand."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from weft.core.errors import DataError, ResourceError
from weft.eval.metrics.rouge import Pieces, rouge


def test_pieces_keep_latin_words_and_numbers() -> None:
    found = Pieces().tokenize("苹果iPhone 15，售价5,999.5元！ＡＩ_x")
    assert found == ["苹", "果", "iphone", "15", "售", "价", "5,999.5", "元", "ai", "x"]
    assert Pieces().tokenize("。 …") == []


def test_english_equals_the_package() -> None:
    package = pytest.importorskip("rouge_score.rouge_scorer")
    references = ["Ann is buying tickets for Bob.", "They cancelled the meeting"]
    found = ["Ann buys a ticket for Bob", "nothing"]
    scorer = package.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(a, b) for a, b in zip(references, found, strict=True)]
    expected = [[row[kind].fmeasure for kind in ("rouge1", "rouge2", "rougeL")] for row in scores]
    figures = rouge(references, found)
    np.testing.assert_allclose(figures.each, expected)
    np.testing.assert_allclose([figures.rouge1, figures.rouge2, figures.rouge_l], np.mean(expected, axis=0))
    # Stemmed: ann, buy, ticket, for, bob of six words each.
    assert figures.each[0, 0] == pytest.approx(5 / 6)
    assert figures.each[1].tolist() == [0, 0, 0]


def test_chinese_by_hand() -> None:
    pytest.importorskip("rouge_score")
    # 明 天 北 京 下 雨 against 北 京 明 天 有 雨: five of six characters, 明天 and 北京 of five pairs each,
    # and 明 天 雨 (or 北 京 雨) in order.
    figures = rouge(["明天北京下雨。", "GPT模型"], ["北京明天有雨", ""], "zh")
    np.testing.assert_allclose(figures.each[0], [5 / 6, 2 / 5, 3 / 6])
    assert figures.each[1].tolist() == [0, 0, 0]
    assert figures.rouge1 == pytest.approx(5 / 12)
    assert rouge(["GPT模型"], ["gpt 模型！"], "zh").rouge2 == 1


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="1 references got 2 summaries"):
        rouge(["a"], ["a", "b"])
    with pytest.raises(DataError, match="at least one"):
        rouge([], [], "zh")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ResourceError, match="pip install"):
        rouge(["a"], ["a"])
