"""BLEU and chrF++ against sacreBLEU's own corpus figures and by hand; their resamples."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from weft.core.errors import DataError, ResourceError
from weft.eval.metrics.translation import bleu, bootstrap, chrf, corpus_bleu, paired, tokenizer

ENGLISH = ["The cat sat on the mat today.", "He went to the old market, slowly.", "Yes.", "It rains again."]
FOUND = ["The cat sat on a mat today.", "he went to the market slowly.", "Yes.", ""]
CHINESE = ["今天天气很好，我们去公园散步。", "他买了3本新书。", "猫喜欢吃鱼。"]
ZH_FOUND = ["今天天气不错，我们去公园走走。", "他买了3本书。", "狗"]


@pytest.fixture(autouse=True)
def sacrebleu() -> object:
    return pytest.importorskip("sacrebleu")


def test_bleu_by_hand() -> None:
    found = bleu(["a b c d e"], ["a b c d f g"])
    shares = [4 / 5, 3 / 4, 2 / 3, 1 / 2]
    assert found.score == pytest.approx(100 * math.exp(1 - 6 / 5) * math.prod(shares) ** 0.25)
    assert found.statistics.tolist() == [[5, 6, 4, 3, 2, 1, 5, 4, 3, 2]]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize(
    ("found", "references", "language"), [(FOUND, ENGLISH, "en"), (ZH_FOUND, CHINESE, "zh")]
)
def test_statistics_give_the_score_of_the_corpus(
    found: list[str], references: list[str], language: str, lowercase: bool
) -> None:
    figures = bleu(found, references, tokenizer(language), lowercase=lowercase)
    reference = importlib.import_module("sacrebleu").corpus_bleu(
        found, [references], tokenize=tokenizer(language), lowercase=lowercase
    )
    assert figures.score == pytest.approx(reference.score)
    assert 10 < figures.score < 90
    assert corpus_bleu(figures.statistics) == pytest.approx(reference.score)
    assert figures.statistics.shape == (len(found), 10)
    assert figures.each.shape == (len(found),)
    assert f"tok:{tokenizer(language)}" in figures.signature
    assert f"case:{'lc' if lowercase else 'mixed'}" in figures.signature
    assert "nrefs:1" in figures.signature


def test_chinese_is_cut_by_characters() -> None:
    figures = bleu(CHINESE, CHINESE, tokenizer("zh"))
    assert figures.score == pytest.approx(100)
    assert figures.statistics[2, 0] == len("猫喜欢吃鱼。")


def test_chrf_equals_sacrebleu() -> None:
    package = importlib.import_module("sacrebleu")
    for found, references in ((FOUND, ENGLISH), (ZH_FOUND, CHINESE)):
        figures = chrf(found, references)
        assert figures.score == pytest.approx(package.corpus_chrf(found, [references], word_order=2).score)
        assert figures.each.shape == (len(found),)
        assert 0 <= figures.each.min() < figures.each.max() <= 100
    assert "nw:2" in chrf(FOUND, ENGLISH).signature
    assert chrf(["ABC"], ["abc"], lowercase=True).score == pytest.approx(100)


def corpora() -> tuple[list[str], list[str], list[str]]:
    """References, and two systems that lose words, the second more of them."""
    generator = np.random.default_rng(0)
    texts = [[f"w{n}" for n in generator.integers(0, 50, 15)] for _ in range(60)]
    fair, poor = (
        [" ".join(w if generator.random() > loss else "x" for w in words) for words in texts]
        for loss in (0.1, 0.2)
    )
    return [" ".join(words) for words in texts], fair, poor


def test_bootstrap_holds_the_score_and_follows_the_seed() -> None:
    references, fair, _ = corpora()
    figures = bleu(fair, references)
    found = bootstrap(figures.statistics, draws=300)
    assert found.value == pytest.approx(figures.score)
    assert found.low < found.value < found.high
    assert (
        found == bootstrap(figures.statistics, draws=300) != bootstrap(figures.statistics, seed=1, draws=300)
    )


def test_pairing_finds_the_better_system() -> None:
    references, fair, poor = corpora()
    first, second = bleu(fair, references), bleu(poor, references)
    found = paired(first.statistics, second.statistics, draws=300)
    assert found.difference.value == pytest.approx(first.score - second.score)
    assert found.difference.low > 0
    assert found.first_lower == 0
    assert paired(first.statistics, first.statistics, draws=10).difference.high == 0


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for score in (bleu, chrf):
        with pytest.raises(DataError, match="1 references got 2 translations"):
            score(["a", "b"], ["a"])
        with pytest.raises(DataError, match="at least one"):
            score([], [])
    with pytest.raises(DataError, match="0 and 0 sentences"):
        bootstrap(np.zeros((0, 10), np.int64))
    with pytest.raises(DataError, match="2 and 3 sentences"):
        paired(np.ones((2, 10), np.int64), np.ones((3, 10), np.int64))

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ResourceError, match="pip install"):
        bleu(["a"], ["a"])
