"""Signatures and similarities of sets of word n-grams: the native way, the plain one and the definition."""

import itertools
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from weft.data.kernels import library
from weft.data.minhash import HASHES, band_hashes, band_hashes_plain, bands
from weft.data.shingles import ShingleFile, shingle_hashes, shingle_sets, similarities, similarities_plain
from weft.data.words import words

TEXTS = pa.array(
    [
        "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
        "the QUICK brown fox jumps over the lazy dog; and the dog sleeps on!",
        "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
        "春眠不觉晓 处处闻啼鸟 夜来风雨声 花落知几何",
        "three words only",
        "",
        None,
        "!!! ... ???",
        "three words, only?",
    ],
    pa.large_string(),
)


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    names = [name for name, _ in words(text)]
    if len(names) < size:
        return {tuple(names)} if names else set()
    return {tuple(names[i : i + size]) for i in range(len(names) - size + 1)}


def test_similarities_are_those_of_the_definition(tmp_path: Path) -> None:
    texts = [text or "" for text in TEXTS.to_pylist()]
    wanted = [index for index, text in enumerate(texts) if grams(text, 5)]
    pairs = list(itertools.combinations(map(str, wanted), 2))
    with ShingleFile(tmp_path / "sets") as sets:
        # Twice: a document that comes again counts once.
        for _ in range(2):
            sets.add([str(number) for number in range(len(texts))], shingle_sets(TEXTS, 5))
        found = sets.similarities(pairs)
        assert sets.similarities([]).shape == (0,)
    for (left, right), value in zip(pairs, found, strict=True):
        one, other = grams(texts[int(left)], 5), grams(texts[int(right)], 5)
        assert value == pytest.approx(len(one & other) / len(one | other))
    by_pair = dict(zip(pairs, found, strict=True))
    assert by_pair["0", "1"] == by_pair["4", "8"] == 1.0 and 0.5 < by_pair["2", "3"] < 1.0
    assert not (tmp_path / "sets").exists()


def test_native_and_plain_agree() -> None:
    assert library("minhash") is not None, "the tests need a C++ compiler"
    generator = np.random.default_rng(3)
    sizes = generator.integers(0, 400, 60)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    pool = generator.integers(0, 2**64, 900, np.uint64)
    shingles = np.concatenate([np.sort(generator.choice(pool, size, replace=False)) for size in sizes])
    for threshold in (0.4, 0.8, 1.0):
        ours = band_hashes(shingles, offsets, threshold)
        assert ours.shape == (60, bands(threshold)[0])
        np.testing.assert_array_equal(ours, band_hashes_plain(shingles, offsets, threshold))
    pairs = generator.integers(0, 60, (500, 2))
    pairs = pairs[(sizes[pairs] > 0).all(1)]
    np.testing.assert_array_equal(
        similarities(shingles, offsets, pairs), similarities_plain(shingles, offsets, pairs)
    )


def test_short_and_wordless_texts() -> None:
    hashes, places = shingle_hashes(TEXTS, 5)
    counts = [len(grams(text or "", 5)) for text in TEXTS.to_pylist()]
    assert np.diff(places).tolist() == counts and len(hashes) == sum(counts)
    assert counts[4] == 1 and counts[5] == counts[6] == counts[7] == 0
    nothing, none = shingle_hashes(pa.array([], pa.large_string()), 5)
    assert len(nothing) == 0 and none.tolist() == [0]


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_a_pair_at_the_threshold_is_found_and_a_stranger_is_not(threshold: float) -> None:
    generator = random.Random(11)
    number, rows = bands(threshold)
    assert number * rows <= HASHES
    met = strangers = 0
    for _ in range(400):
        common = int(200 * threshold / (1 + threshold))
        values = [generator.getrandbits(64) for _ in range(200)]
        shared, mine, other = values[:common], values[common:100], values[100 : 200 - common]
        sets = [np.array(part, np.uint64) for part in (shared + mine, shared + other, values[100:])]
        offsets = np.cumsum([0, *map(len, sets)], dtype=np.int64)
        one, near, far = band_hashes(np.concatenate(sets), offsets, threshold)
        met += bool((one == near).any())
        strangers += bool((one == far).any())
    assert met >= 390 and strangers <= 8
