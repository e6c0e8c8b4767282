"""BM25, its terms, and the stems of English words."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from weft.core.errors import DataError, UsageError
from weft.data.terms import terms
from weft.retrieval.bm25 import Bm25
from weft.retrieval.counts import count, terms_of
from weft.retrieval.porter import stem

ENGLISH = [
    "The tower stands in Paris and is made of iron.",
    "Iron rusts in wet air, and paint keeps the rust away.",
    "Bread rises because yeast makes gas in the dough.",
    "Paris is the capital of France; the tower is in Paris.",
    "Dogs bark at night.",
]


def test_terms_of_both_languages() -> None:
    assert terms("Studies of ＣＮＮs在北京市 x_y") == ["study", "of", "cnn", "在北", "北京", "京市", "x", "y"]
    assert terms("bus glass houses 好, 2") == ["bus", "glass", "house", "好", "2"]
    assert terms_of("Studies of 北京市好") == ["studi", "of", "北京", "京市", "市好", "北", "京", "市", "好"]
    assert terms_of("猫, cats") == ["cat", "猫"]


def test_stems_are_those_of_the_paper() -> None:
    paper = {
        "caresses": "caress", "ponies": "poni", "cats": "cat", "feed": "feed", "agreed": "agre",
        "plastered": "plaster", "motoring": "motor", "sing": "sing", "conflated": "conflat",
        "hopping": "hop", "falling": "fall", "filing": "file", "happy": "happi", "sky": "sky",
        "relational": "relat", "rational": "ration", "digitizer": "digit", "vietnamization": "vietnam",
        "hopefulness": "hope", "triplicate": "triplic", "electrical": "electr", "revival": "reviv",
        "adoption": "adopt", "replacement": "replac", "rate": "rate", "cease": "ceas",
        "controll": "control", "roll": "roll", "generalizations": "gener", "oscillators": "oscil",
    }  # fmt: skip
    assert {word: stem(word) for word in paper} == paper
    assert [stem(word) for word in ("is", "a1s", "naïves", "北京")] == ["is", "a1s", "naïves", "北京"]


def test_stems_agree_with_nltk() -> None:
    porter = pytest.importorskip("nltk.stem.porter").PorterStemmer("ORIGINAL_ALGORITHM")
    words = set(re.findall("[a-z]{3,}", re.__doc__.lower() + math.__doc__ + str(np.__doc__).lower()))
    assert len(words) > 200
    assert {word: stem(word) for word in words} == {word: porter.stem(word) for word in words}


def test_scores_equal_the_formula() -> None:
    documents = ["red fox", "red red dog runs", "猫喜欢鱼"]
    mean = sum(len(terms_of(text)) for text in documents) / 3
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    found = Bm25(documents).scores("red")
    for number, (times, length) in enumerate([(1, 2), (2, 4)]):
        expected = idf * times / (times + 1.2 * (0.25 + 0.75 * length / mean))
        assert found[number] == pytest.approx(expected)
    assert found[2] == 0


def test_scores_are_those_of_rank_bm25_for_its_idf() -> None:
    rank_bm25 = pytest.importorskip("rank_bm25")
    peer = rank_bm25.BM25Okapi([terms_of(text) for text in ENGLISH], k1=1.2, b=0.75)
    ours = Bm25(ENGLISH)
    for term in ("iron", "yeast", "pari", "wet"):
        # The peer's idf is another one, and it multiplies by k1 + 1; what is left must be equal.
        share = peer.get_scores([term]) / (peer.idf[term] * 2.2)
        idf = ours.vocabulary.weight(term)
        np.testing.assert_allclose(ours.scores(term) / idf, share, rtol=1e-6)


def test_titles_count_by_their_weight() -> None:
    counts = count(["a dog", "a cat"], ["cat", ""], weight=3)
    assert counts.lengths.tolist() == [5, 2]
    scores = Bm25.of(counts).scores("cat")
    assert scores[0] > scores[1] > 0


def test_search_finds_chinese_and_nothing_where_nothing_is() -> None:
    index = Bm25(["上海在海边", "北京是首都", "dogs"])
    assert [number for number, _ in index.search("首都北京")] == [1]
    assert [number for number, _ in index.search("京")] == [1]
    assert [number for number, _ in index.search("a dog")] == [2]
    assert index.search("飞机") == index.search("") == []


def test_covered_is_a_share_of_idf_mass() -> None:
    index = Bm25(["red fox", "red dog", "blue dog"])
    weigh = index.vocabulary.weight
    expected = weigh("red") / (weigh("red") + weigh("blue") + weigh("unknown"))
    assert index.covered({"red", "blue", "unknown"})[0] == pytest.approx(expected)
    assert weigh("unknown") > weigh("blue") > weigh("red") > 0
    assert index.covered(set()).tolist() == [0, 0, 0]


def test_saved_is_what_was_in_memory(tmp_path: Path) -> None:
    index = Bm25([*ENGLISH, "北京是首都"])
    index.save(tmp_path / "bm25.npz")
    opened = Bm25.open(tmp_path / "bm25.npz")
    for query in ("iron tower in Paris", "首都", "nothing of this", ""):
        np.testing.assert_array_equal(opened.scores(query), index.scores(query))
    (tmp_path / "bm25.npz").write_bytes((tmp_path / "bm25.npz").read_bytes()[:300])
    for name in ("bm25.npz", "none.npz"):
        with pytest.raises(DataError, match="missing or damaged"):
            Bm25.open(tmp_path / name)


def test_bad_input() -> None:
    with pytest.raises(DataError, match="no text to index"):
        Bm25(["", " "])
    with pytest.raises(UsageError, match="b from 0 to 1"):
        Bm25(["a"], b=2)
