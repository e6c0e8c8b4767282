"""How often each term stands in each passage: the one count that BM25 and latent vectors are made from."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError
from weft.data.terms import terms
from weft.retrieval.porter import stem

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TITLE_WEIGHT = 2
"""How often a term of a title counts; see docs/decisions/retrieval.md for what was measured."""


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]")


def terms_of(text: str) -> list[str]:
    """The terms of passages and questions: English words without endings (Porter 1980), Chinese bigrams and
    characters, since a question may be one character (Nie et al. 2000 found both together best)."""
    found = [term for term in terms(text, stem) if not is_character(term)]
    return found + _HAN.findall(unicodedata.normalize("NFKC", text))


def is_character(term: str) -> bool:
    """Whether ``term`` is one Han character."""
    return len(term) == 1 and _HAN.match(term) is not None


def is_bigram(term: str) -> bool:
    """Whether ``term`` is two Han characters, which may cross two words."""
    return len(term) == 2 and _HAN.match(term) is not None


@dataclass(frozen=True)
class Vocabulary:
    """Terms by number, and in how many of ``passages`` each stands (int64 [V])."""

    names: tuple[str, ...]
    frequencies: Ints
    passages: int

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each term."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def idf(self) -> Floats:
        """float64 [V]: ln(1 + (N - n + 0.5) / (n + 0.5)), Lucene's form, which is never negative."""
        n = self.frequencies
        found: Floats = np.log1p((self.passages - n + 0.5) / (n + 0.5))
        return found

    def weight(self, term: str) -> float:
        """The idf of ``term``; one that no passage has weighs as much as a term can."""
        number = self.numbers.get(term)
        return float(np.log1p((self.passages + 0.5) / 0.5) if number is None else self.idf[number])

    def known(self, text: str) -> tuple[Ints, Floats]:
        """The known terms of ``text``, each once (int64 [n]), and how often each stands there."""
        counted = Counter(term for term in terms_of(text) if term in self.numbers)
        numbers = np.array([self.numbers[term] for term in counted], np.int64)
        return numbers, np.array(list(counted.values()), np.float64)


@dataclass(frozen=True)
class Counts:
    """Passage by term, sparse: passage i has terms ``numbers[starts[i]:starts[i + 1]]``, each ``times``."""

    vocabulary: Vocabulary
    starts: Ints
    numbers: Ints
    times: Floats

    @property
    def owners(self) -> Ints:
        """int64 [nonzero]: the passage of each entry."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @property
    def lengths(self) -> Floats:
        """float64 [N]: terms of each passage."""
        return np.bincount(self.owners, self.times, len(self.starts) - 1).astype(np.float64)


def count(texts: Sequence[str], titles: Sequence[str] | None = None, weight: int = TITLE_WEIGHT) -> Counts:
    """Count the terms of ``texts``, those of their ``titles`` ``weight`` times.

    Raises DataError where no text has a term.
    """
    numbers: dict[str, int] = {}
    starts, places, times = [0], [], []
    for text, title in zip(texts, titles or [""] * len(texts), strict=True):
        for term, often in _weighted(text, title, weight).items():
            places.append(numbers.setdefault(term, len(numbers)))
            times.append(often)
        starts.append(len(places))
    if not places:
        raise DataError("There is no text to index; give at least one document with words.")
    frequencies = np.bincount(np.array(places), minlength=len(numbers))
    vocabulary = Vocabulary(tuple(numbers), frequencies.astype(np.int64), len(texts))
    return Counts(
        vocabulary, np.array(starts, np.int64), np.array(places, np.int64), np.array(times, np.float64)
    )


def _weighted(text: str, title: str, weight: int) -> Counter[str]:
    found = Counter(terms_of(text))
    if title and weight:
        for term in terms_of(title):
            found[term] += weight
    return found
