"""Translation without a model: word by word from a dictionary that pairs teach, and the source as it stands.

The dictionary is IBM Model 1 (Brown et al. 1993): each target word comes from one source word or from none,
all of them equally likely beforehand, and expectation maximisation finds p(target word | source word). A word
is translated by its likeliest target word, in the order of the source. Chinese is written without spaces;
its words here are single characters.

S source words, T target words of a pair; K pairs of words that stand in some pair of texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, UsageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LONGEST = 100
"""Words of a text that are learnt from: the work grows with the product of both lengths."""

_CHUNK = 4096
"""Pairs of texts whose word pairs are numbered at once; it bounds the memory of the sort."""

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
_WORD = re.compile(f"[{_HAN}]|[^\\W_{_HAN}]+(?:['’][^\\W_{_HAN}]+)*|[^\\w\\s]|_")
_NO_SPACE_BEFORE, _NO_SPACE_AFTER = ".,;:!?%)]}", "([{"
_NONE = ""
"""The source word of target words that come from none; no text holds it."""


class WordDictionary:
    """A dictionary; ``entries`` holds the translation of every source word that was in training."""

    def __init__(self, sources: Sequence[str], targets: Sequence[str], iterations: int = 5) -> None:
        """Learn from pairs of texts.

        Raises DataError unless every source has a target and some pair has words on both sides; UsageError
        for no iterations.
        """
        if iterations < 1:
            raise UsageError(f"A dictionary cannot be learnt in {iterations} iterations; choose 1 or more.")
        if not sources or len(sources) != len(targets):
            raise DataError(
                f"{len(sources)} sources have {len(targets)} targets; give one each, at least one."
            )
        split = [
            (left[:LONGEST], right[:LONGEST])
            for left, right in zip(map(words, sources), map(words, targets), strict=True)
            if left and right
        ]
        if not split:
            raise DataError("No pair has words on both sides; there is nothing to learn a dictionary from.")
        left_number = _numbers([[_NONE]], (left for left, _ in split))
        right_number = _numbers((right for _, right in split))
        pairs = [
            (
                np.array([0, *(left_number[word] for word in left)]),
                np.array([right_number[word] for word in right]),
            )
            for left, right in split
        ]
        keys, chance = model_one(pairs, len(right_number), iterations)
        left_words, right_words = list(left_number), list(right_number)
        best = keys[_likeliest(keys // len(right_words), chance)].tolist()
        self.entries = {
            left_words[key // len(right_words)]: right_words[key % len(right_words)]
            for key in best
            if key >= len(right_words)
        }

    def translate(self, text: str) -> str:
        """``text`` word by word; a word that was not in training (a name, a number) stays as it is."""
        return _joined([self.entries.get(word.lower(), word) for word in _WORD.findall(_normal(text))])


def copied(text: str) -> str:
    """The source as its own translation: what a metric gives for names, numbers and punctuation alone."""
    return text


def words(text: str) -> list[str]:
    """Words in lower case, Han characters and marks of ``text`` (NFKC) in order."""
    return _WORD.findall(_normal(text).lower())


def model_one(pairs: Sequence[tuple[Ints, Ints]], target_words: int, iterations: int) -> tuple[Ints, Floats]:
    """IBM Model 1 over pairs of word numbers [S] and [T], the word for none among the source's.

    Returns int64 [K], sorted: source number * ``target_words`` + target number; and float64 [K]:
    p(target word | source word). From uniform probabilities, so the result follows from the pairs alone.
    """
    chunks = [_chunk(pairs[at : at + _CHUNK], target_words) for at in range(0, len(pairs), _CHUNK)]
    keys = np.unique(np.concatenate([chunk.keys for chunk in chunks]))
    places = [np.searchsorted(keys, chunk.keys) for chunk in chunks]
    source = keys // target_words
    chance = np.ones(len(keys))
    for _ in range(iterations):
        expected = np.zeros(len(keys))
        for chunk, place in zip(chunks, places, strict=True):
            expected[place] += chunk.expected(chance[place])
        chance = expected / np.bincount(source, weights=expected)[source]
    return keys, chance


@dataclass(frozen=True)
class _Chunk:
    """The links of some pairs of texts: every target word with every source word of its pair.

    ``keys`` int64 [word pairs], sorted; ``link`` int32 [links]: which of them each link is, all source words
    of a target word together; ``width`` int64 [target words]: their number.
    """

    keys: Ints
    link: npt.NDArray[np.int32]
    width: Ints

    def expected(self, chance: Floats) -> Floats:
        """float64 [word pairs]: how often each is linked, where ``chance`` is that of each word pair."""
        share = chance[self.link]
        total = np.add.reduceat(share, np.cumsum(self.width) - self.width)
        share /= np.repeat(total, self.width)
        return np.bincount(self.link, weights=share, minlength=len(self.keys)).astype(np.float64, copy=False)


def _chunk(pairs: Sequence[tuple[Ints, Ints]], target_words: int) -> _Chunk:
    links = np.concatenate([(left * target_words + right[:, None]).ravel() for left, right in pairs])
    keys, link = np.unique(links, return_inverse=True)
    width = np.repeat([len(left) for left, _ in pairs], [len(right) for _, right in pairs])
    return _Chunk(keys, link.astype(np.int32), width)


def _likeliest(source: Ints, chance: Floats) -> Ints:
    """The place of the largest chance of each source word, the first of equals; ``source`` is sorted."""
    order = np.lexsort((-chance, source))
    return order[np.flatnonzero(np.diff(source[order], prepend=-1))]


def _numbers(*groups: Iterable[Sequence[str]]) -> dict[str, int]:
    """A number for each word, by first appearance."""
    found: dict[str, int] = {}
    for group in groups:
        for text in group:
            for word in text:
                found.setdefault(word, len(found))
    return found


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _joined(pieces: Sequence[str]) -> str:
    """One text: spaces between words, none beside Chinese or between a word and its punctuation."""
    found = ""
    for piece in pieces:
        close = not found or piece in _NO_SPACE_BEFORE or found[-1] in _NO_SPACE_AFTER
        found += piece if close or found[-1] >= "\u2e80" or piece[0] >= "\u2e80" else f" {piece}"
    return found
