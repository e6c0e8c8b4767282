"""Spans of a text with labels: named entities, and who did what around a predicate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.data.forms.offsets import Placed
from weft.data.forms.tag import OUTSIDE, place, spans_of
from weft.tasks.results import Span
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]
Asked = tuple[str, tuple[int, int] | None]
"""A text and the characters of the predicate that is asked about, if one is."""


def encode(tokenizer: Tokenizer, asked: Sequence[Asked]) -> list[Placed]:
    """Each text as one document, a predicate between markers."""
    return place(tokenizer, asked)


def legal(labels: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """0 or -infinity for transitions [C, C], first [C] and last [C]: I-X only goes on with what is X."""
    size = len(labels)
    transitions, first = np.zeros((size, size)), np.zeros(size)
    for after, name in enumerate(labels):
        mark, _, label = name.partition("-")
        if mark == "I":
            first[after] = -np.inf
            for before, other in enumerate(labels):
                if other == OUTSIDE or other.partition("-")[2] != label:
                    transitions[before, after] = -np.inf
    return transitions, first, np.zeros(size)


def decode(
    text: str, one: Placed, classes: Sequence[int], shares_TC: Floats, labels: Sequence[str]
) -> list[Span]:
    """The spans that the classes of the tokens say; a span scores the mean of its tokens' probabilities."""
    named = [labels[number] for number in classes]
    found = []
    for start, end, label in spans_of(named, one.offsets):
        tokens = one.overlapping(start, end)
        score = float(np.mean([shares_TC[token, classes[token]] for token in tokens]))
        found.append(Span(text[start:end], start, end, label, score))
    return found
