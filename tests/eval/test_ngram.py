"""The vectorised n-gram model against a plain one written from the formulas."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from numpy.testing import assert_allclose

from weft.core.errors import DataError, UsageError
from weft.eval.baselines.ngram import NgramModel

VOCAB, EOS = 7, 0


def documents(seed: int, count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.zipf(1.6, generator.integers(0, 30)) % (VOCAB - 1) + 1 for _ in range(count)]


class Plain:
    """Chen and Goodman's modified Kneser-Ney with dictionaries, one n-gram at a time."""

    def __init__(self, texts: list[np.ndarray], order: int):
        self.order = order
        counts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
        for text in texts:
            stream = [EOS] * (order - 1) + text.tolist() + [EOS]
            for end in range(order - 1, len(stream)):
                counts[order][tuple(stream[end - order + 1 : end + 1])] += 1
        for n in range(order - 1, 0, -1):
            for longer in counts[n + 1]:
                counts[n][longer[1:]] += 1
        self.counts = counts
        self.discounts = [self._discount(c) for c in counts]
        self.followers: list[dict[tuple[int, ...], list[int]]] = []
        for table in counts:
            grouped: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for ngram, count in table.items():
                grouped[ngram[:-1]].append(count)
            self.followers.append(grouped)

    @staticmethod
    def _discount(table: Counter[tuple[int, ...]]) -> list[float]:
        n = [0, *(sum(c == k for c in table.values()) for k in (1, 2, 3, 4))]
        if not all(n[1:4]):
            return [0.0, 0.5, 0.5, 0.5]
        y = n[1] / (n[1] + 2 * n[2])
        closed = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        sound = all(0 < d < k for k, d in enumerate(closed, start=1))
        return [0.0, *closed] if sound else [0.0, 0.5, 0.5, 0.5]

    def probability(self, context: tuple[int, ...], token: int) -> float:
        n = len(context) + 1
        lower = self.probability(context[1:], token) if context else 1 / VOCAB
        followers = self.followers[n].get(context)
        if not followers:
            return lower
        count, discount = self.counts[n][(*context, token)], self.discounts[n]
        freed = sum(discount[min(c, 3)] for c in followers)
        return (count - discount[min(count, 3)] + freed * lower) / sum(followers)

    def bits(self, text: np.ndarray) -> float:
        stream = [EOS] * (self.order - 1) + text.tolist() + [EOS]
        places = range(self.order - 1, len(stream))
        return sum(
            -np.log2(self.probability(tuple(stream[i - self.order + 1 : i]), stream[i])) for i in places
        )


@pytest.mark.parametrize("order", [2, 3, 5])
def test_equals_the_plain_model(order: int) -> None:
    train, held_out = documents(0, 60), documents(1, 12)
    model, plain = NgramModel.fit(train, VOCAB, EOS, order), Plain(train, order)
    # A corpus large enough that the closed-form discounts are at work, not the fallback.
    assert order == 2 or plain.discounts[order] != [0.0, 0.5, 0.5, 0.5]
    assert_allclose(model.bits(held_out), [plain.bits(text) for text in held_out], rtol=1e-12)


@pytest.mark.parametrize("context", [[], [1], [2, 1, 1, 3], [6, 6, 6, 6, 6], [1, 2, 3, 4, 5, 6, 1, 2]])
def test_every_distribution_sums_to_one_and_agrees_with_the_scores(context: list[int]) -> None:
    model = NgramModel.fit(documents(2, 40), VOCAB, EOS, order=4)
    chance = model.distribution(context)
    assert_allclose(chance.sum(), 1.0, rtol=1e-12)
    assert (chance > 0).all()
    plain = Plain(documents(2, 40), 4)
    history = tuple(([EOS] * 3 + context)[-3:])
    assert_allclose(chance, [plain.probability(history, token) for token in range(VOCAB)], rtol=1e-12)


def test_contexts_do_not_cross_documents() -> None:
    train = [np.array([1, 2]), np.array([3, 4])]
    model = NgramModel.fit(train * 5, VOCAB, EOS, order=3)
    swapped = NgramModel.fit((train * 5)[::-1], VOCAB, EOS, order=3)
    text = [np.array([1, 2, 3, 4])]
    assert model.bits(text) == pytest.approx(swapped.bits(text))
    assert model.bits([text[0], text[0]]) == pytest.approx(2 * [model.bits(text)[0]])


def test_repetitive_text_leaves_room_for_the_unseen() -> None:
    model = NgramModel.fit([np.array([1, 2, 3] * 20)] * 9, VOCAB, EOS, order=4)
    assert np.isfinite(model.bits([np.array([6, 5, 4, 3, 3, 3])])).all()


def test_an_empty_document_costs_its_end_of_text() -> None:
    model = NgramModel.fit(documents(3, 20), VOCAB, EOS, order=3)
    assert_allclose(model.bits([np.array([], int)]), -np.log2(model.distribution([])[EOS]))
    assert model.bits([]).shape == (0,)


def test_generation_follows_the_distribution_and_the_seed() -> None:
    model = NgramModel.fit([np.array([1, 2, 3, 4, 5])] * 50, VOCAB, EOS, order=3)
    assert model.generate([1], 10, np.random.default_rng(0), temperature=0.0) == [2, 3, 4, 5]
    draws = [model.generate([1], 10, np.random.default_rng(7)) for _ in range(2)]
    assert draws[0] == draws[1]
    assert model.generate([1, 2], 2, np.random.default_rng(0), temperature=0.0) == [3, 4]


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="order 1"):
        NgramModel.fit(documents(0, 3), VOCAB, EOS, order=1)
    with pytest.raises(DataError, match="no training document"):
        NgramModel.fit([], VOCAB, EOS)
    with pytest.raises(DataError, match="another tokenizer"):
        NgramModel.fit([np.array([VOCAB])], VOCAB, EOS)
