"""An n-gram model over tokens: interpolated modified Kneser-Ney, vectorised.

Source: Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999),
section 4.1.6; the discounts are their closed forms from the counts of counts. Interior orders use
continuation counts (in how many different left contexts an n-gram stands), the highest order uses raw
counts, and the lowest order interpolates with the uniform distribution, so every token has probability
and each distribution sums to one.

A document is scored as the decoder scores it: it starts after an end of text, it ends with an
end of text that is predicted too, and no context reaches across documents.

Every n-gram has a number in the sorted table of its order. Its key is ``number of its first n-1 tokens
* vocabulary + last token``, which fits an int64 at any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, UsageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """All n-grams of one order, sorted by key, and what follows each context of n-1 tokens.

    ``key`` int64 [G], ``probability`` float64 [G]: interpolated p(last token | context);
    ``backoff`` float64 [contexts]: mass that the context leaves to the next lower order.
    """

    key: Ints
    probability: Floats
    backoff: Floats


class NgramModel:
    """An interpolated modified Kneser-Ney model; make one with :meth:`fit`."""

    def __init__(self, orders: Sequence[_Order], vocab_size: int, eos_id: int) -> None:
        self._orders = list(orders)
        self.vocab_size, self.eos_id = vocab_size, eos_id

    @property
    def order(self) -> int:
        """Tokens in the longest n-gram."""
        return len(self._orders)

    @classmethod
    def fit(
        cls, documents: Sequence[npt.NDArray[np.integer]], vocab_size: int, eos_id: int, order: int = 5
    ) -> NgramModel:
        """Count and smooth ``documents`` (token ids without the end of text, which is added here).

        Raises UsageError for an order below 2 and DataError when there is no document or a token lies
        outside the vocabulary.
        """
        if order < 2:
            raise UsageError(f"An n-gram model of order {order} has no context; choose 2 or more.")
        if not len(documents):
            raise DataError("The n-gram model has no training document; give it a training split.")
        tokens, counted = _padded(documents, vocab_size, eos_id, order)
        tables = _count(tokens, counted, vocab_size, order)
        orders: list[_Order] = []
        for n, table in enumerate(tables):
            if n + 1 < len(tables):
                longer = tables[n + 1]
                adjusted = np.bincount(longer.suffix[longer.raw > 0], minlength=len(table.key))
            else:
                adjusted = table.raw
            lower = orders[-1].probability[table.suffix] if orders else 1.0 / vocab_size
            contexts = len(orders[-1].key) if orders else 1
            orders.append(_smooth(table.key, adjusted, lower, contexts, vocab_size))
        return cls(orders, vocab_size, eos_id)

    def bits(self, documents: Sequence[npt.NDArray[np.integer]]) -> Floats:
        """float64 [documents]: sum of -log2 p over all tokens of each document and its end of text."""
        if not len(documents):
            return np.zeros(0)
        tokens, counted = _padded(documents, self.vocab_size, self.eos_id, self.order)
        bits = -np.log2(self._probabilities(tokens)[counted])
        ends = np.cumsum([len(document) + 1 for document in documents])
        return np.diff(np.concatenate([[0.0], np.cumsum(bits)[ends - 1]]))

    def distribution(self, context: Sequence[int]) -> Floats:
        """float64 [V]: probability of each next token after ``context`` (from the start of a document)."""
        history = [self.eos_id] * (self.order - 1) + list(context)
        chance = np.empty(self.vocab_size)
        chance[:] = self._orders[0].backoff[0] / self.vocab_size
        chance[self._orders[0].key] = self._orders[0].probability
        for n in range(1, self.order):
            number = self._number(history[-n:])
            if number < 0:
                break
            table = self._orders[n]
            lowest = number * self.vocab_size
            first, last = np.searchsorted(table.key, [lowest, lowest + self.vocab_size])
            chance *= table.backoff[number]
            chance[table.key[first:last] - lowest] = table.probability[first:last]
        return chance

    def generate(
        self, prompt: Sequence[int], max_new: int, generator: np.random.Generator, temperature: float = 1.0
    ) -> list[int]:
        """Sample up to ``max_new`` tokens after ``prompt``; stops before an end of text.

        ``temperature`` 0 takes the likeliest token.
        """
        context = list(prompt)
        for _ in range(max_new):
            chance = self.distribution(context[-self.order + 1 :] if len(context) >= self.order else context)
            if temperature <= 0:
                token = int(chance.argmax())
            else:
                cumulative = np.cumsum(chance if temperature == 1.0 else chance ** (1.0 / temperature))
                token = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
            if token == self.eos_id:
                break
            context.append(token)
        return context[len(prompt) :]

    def _number(self, ngram: Sequence[int]) -> int:
        number = 0
        for table, token in zip(self._orders, ngram, strict=False):
            key = number * self.vocab_size + token
            number = int(np.searchsorted(table.key, key))
            if number == len(table.key) or table.key[number] != key:
                return -1
        return number

    def _probabilities(self, tokens: npt.NDArray[np.integer]) -> Floats:
        """float64 [N]: p(token | the order-1 tokens before it) at each place of a padded stream."""
        unigram = self._orders[0]
        number = _find(unigram.key, tokens.astype(np.int64))
        chance = np.where(number >= 0, unigram.probability[number], unigram.backoff[0] / self.vocab_size)
        for table in self._orders[1:]:
            context = np.concatenate([[-1], number[:-1]])
            known = context >= 0
            number = np.full(len(tokens), -1)
            number[known] = _find(table.key, context[known] * self.vocab_size + tokens[known])
            left = chance * np.where(known, table.backoff[context], 1.0)
            chance = np.where(number >= 0, table.probability[number], left)
        return chance


@dataclass(frozen=True)
class _Counts:
    """One order before smoothing: ``key``, ``raw`` occurrences, ``suffix`` = number of the n-gram's last
    n-1 tokens in the next lower order. All int64 [G]."""

    key: Ints
    raw: Ints
    suffix: Ints


def _padded(
    documents: Sequence[npt.NDArray[np.integer]], vocab_size: int, eos_id: int, order: int
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """All documents in one stream, ``order - 1`` ends of text before and one after each; and which
    places are predicted (all but those before)."""
    lengths = np.array([len(document) for document in documents])
    tokens = np.full(int(lengths.sum()) + order * len(documents), eos_id, dtype=np.int64)
    counted = np.ones(len(tokens), dtype=bool)
    starts = np.cumsum(lengths + order) - (lengths + order)
    for place in range(order - 1):
        counted[starts + place] = False
    for start, document in zip(starts + order - 1, documents, strict=True):
        tokens[start : start + len(document)] = document
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise DataError(
            f"A token id lies outside the vocabulary of {vocab_size} tokens; the documents were encoded "
            "with another tokenizer."
        )
    return tokens, counted


def _count(tokens: Ints, counted: npt.NDArray[np.bool_], vocab_size: int, order: int) -> list[_Counts]:
    """The counts of every order from 1 to ``order``."""
    tables: list[_Counts] = []
    # The n-gram that ends at each place; places whose n-gram would begin before the stream repeat place 0,
    # which is never counted.
    number: Ints = np.zeros(len(tokens), dtype=np.int64)
    for n in range(1, order + 1):
        context = np.concatenate([number[:1], number[:-1]]) if n > 1 else np.zeros_like(number)
        key, place, longer = np.unique(context * vocab_size + tokens, return_index=True, return_inverse=True)
        raw = np.bincount(longer, weights=counted, minlength=len(key)).astype(np.int64)
        tables.append(_Counts(key, raw, number[place]))
        number = longer
    return tables


def _smooth(key: Ints, count: Ints, lower: Floats | float, contexts: int, vocab_size: int) -> _Order:
    """Interpolate one order with ``lower``, the lower order's probability of each n-gram's suffix."""
    context = key // vocab_size
    discounts = _discounts(count)
    discount = discounts[np.minimum(count, 3)]
    total = np.bincount(context, weights=count, minlength=contexts)
    freed = np.bincount(context, weights=discount, minlength=contexts)
    seen = total > 0
    total[~seen], freed[~seen] = 1.0, 1.0
    backoff = freed / total
    return _Order(key, (count - discount) / total[context] + backoff[context] * lower, backoff)


def _discounts(count: Ints) -> Floats:
    """float64 [4]: what is taken from a count of 0, 1, 2, and 3 or more.

    In a tiny or strange corpus a count of counts may be missing, or the closed form may fall outside
    (0, k), which would leave an unseen token no probability; then the absolute discount of 0.5 serves.
    """
    ones, twos, threes, fours = (int((count == k).sum()) for k in (1, 2, 3, 4))
    if ones and twos and threes:
        base = ones / (ones + 2.0 * twos)
        closed = [1 - 2 * base * twos / ones, 2 - 3 * base * threes / twos, 3 - 4 * base * fours / threes]
        if all(0 < discount < k for k, discount in enumerate(closed, start=1)):
            return np.array([0.0, *closed])
    return np.array([0.0, 0.5, 0.5, 0.5])


def _find(keys: Ints, wanted: Ints) -> Ints:
    """The index of each wanted key in the sorted ``keys``, -1 where it is absent."""
    index = np.searchsorted(keys, wanted)
    index[index == len(keys)] = 0
    return np.where(keys[index] == wanted, index, -1)
