"""IBM Model 1 against a plain one, and what its dictionary does with Chinese and English."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from weft.core.errors import DataError, UsageError
from weft.eval.baselines import dictionary
from weft.eval.baselines.dictionary import WordDictionary, copied, model_one, words

Pairs = list[tuple[np.ndarray, np.ndarray]]


def plain(pairs: Pairs, iterations: int) -> dict[tuple[int, int], float]:
    """p(target | source) by (source, target) one link at a time (Koehn 2010, figure 4.3)."""
    chance: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        expected: dict[tuple[int, int], float] = defaultdict(float)
        totals: dict[int, float] = defaultdict(float)
        for source, target in pairs:
            for right in target:
                total = sum(chance[left, right] for left in source)
                for left in source:
                    expected[left, right] += chance[left, right] / total
                    totals[left] += chance[left, right] / total
        chance = defaultdict(float, {key: value / totals[key[0]] for key, value in expected.items()})
    return chance


def drawn(seed: int, count: int) -> Pairs:
    """Word numbers with repetitions; 0 stands in every source."""
    generator = np.random.default_rng(seed)
    return [
        (
            np.append(0, generator.integers(1, 12, generator.integers(1, 8))),
            generator.integers(0, 9, generator.integers(1, 8)),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("chunk", [4, 4096])
def test_equals_the_plain_model(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionary, "_CHUNK", chunk)
    pairs = drawn(0, 30)
    keys, chance = model_one(pairs, 9, 4)
    expected = plain(pairs, 4)
    assert len(keys) == len(expected)
    np.testing.assert_allclose(chance, [expected[divmod(key, 9)] for key in keys.tolist()], rtol=1e-9)


def test_equals_the_published_example() -> None:
    # Koehn 2010, figure 4.4: das Haus, das Buch, ein Buch; the house, the book, a book. No word for none.
    pairs = [
        (np.array(left), np.array(right))
        for left, right in (([0, 1], [0, 1]), ([0, 2], [0, 2]), ([3, 2], [3, 2]))
    ]
    keys, chance = model_one(pairs, 4, 2)
    found = {divmod(int(key), 4): float(p) for key, p in zip(keys, chance, strict=True)}
    assert found[0, 0] == pytest.approx(0.6364, abs=5e-5)
    assert found[0, 2] == pytest.approx(0.1818, abs=5e-5)
    assert found[2, 2] == pytest.approx(0.6364, abs=5e-5)
    assert found[1, 1] == pytest.approx(0.5714, abs=5e-5)


def test_words_of_both_languages() -> None:
    assert words("It's ２ GPUs，好吗?") == ["it's", "2", "gpus", ",", "好", "吗", "?"]
    assert words(" ") == []


ENGLISH = ["I love cats.", "I love dogs.", "You see cats.", "You see dogs.", "I see fish.", "You love fish."]
CHINESE = ["我爱猫。", "我爱狗。", "你看猫。", "你看狗。", "我看鱼。", "你爱鱼。"]


def test_english_to_chinese() -> None:
    model = WordDictionary(ENGLISH, CHINESE, 20)
    assert {word: model.entries[word] for word in ("i", "you", "love", "see", "cats", "dogs", "fish")} == {
        "i": "我",
        "you": "你",
        "love": "爱",
        "see": "看",
        "cats": "猫",
        "dogs": "狗",
        "fish": "鱼",
    }
    assert model.translate("You love cats in Paris") == "你爱猫in Paris"
    assert "" not in model.entries


def test_chinese_to_english() -> None:
    model = WordDictionary(CHINESE, ENGLISH, 20)
    assert model.translate("我爱狗GPT") == "i love dogs GPT"
    assert model.translate("") == ""


def test_punctuation_is_joined_to_its_word() -> None:
    model = WordDictionary(["a"], ["b"])
    assert model.translate("x (y, z) 5%!") == "x (y, z) 5%!"
    assert copied("原文 as it is。") == "原文 as it is。"


def test_bad_input() -> None:
    with pytest.raises(DataError, match="2 sources have 1 targets"):
        WordDictionary(["a", "b"], ["a"])
    with pytest.raises(DataError, match="at least one"):
        WordDictionary([], [])
    with pytest.raises(DataError, match="nothing to learn"):
        WordDictionary(["", "好"], ["a", " "])
    with pytest.raises(UsageError, match="0 iterations"):
        WordDictionary(["a"], ["b"], 0)
