"""Distinct-1 and distinct-2: how varied generated texts are (Li et al. 2016, arXiv:1510.03055)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from weft.core.errors import DataError


@dataclass(frozen=True)
class Diversity:
    """Shares from 0 to 1."""

    distinct_1: float
    distinct_2: float


def diversity(texts: Sequence[Sequence[Hashable]]) -> Diversity:
    """Different unigrams and bigrams of all ``texts`` together, each divided by the number of tokens.

    A text is a sequence of tokens, or a string, whose characters are its tokens (Chinese). Divided by tokens
    and not by bigrams, as in the paper. Longer output repeats itself more, so only sets of about one length
    can be compared. DataError where there is no token.
    """
    tokens = sum(len(text) for text in texts)
    if not tokens:
        raise DataError("There is no generated token to count; give at least one text that is not empty.")
    return Diversity(_different(texts, 1) / tokens, _different(texts, 2) / tokens)


def _different(texts: Sequence[Sequence[Hashable]], order: int) -> int:
    """N-grams of ``order`` that occur, each once; none reaches over the end of a text."""
    return len({tuple(text[at : at + order]) for text in texts for at in range(len(text) - order + 1)})
