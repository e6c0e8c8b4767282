"""Pairs of a text and its summary as labels: which words of the text the summary has too.

A word has the label 1 where it stands in the summary beside the same neighbour as in the text: words that are
in every text do not count alone. Labels of whole sentences by a greedy oracle, as Nallapati et al. 2017
(arXiv:1611.04230) make them, taught less where titles were learnt (``docs/benchmarks_tasks.md``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from weft.core.errors import DataError
from weft.data.batch import IGNORED
from weft.data.forms.base import Made, Parsed, Unlabelled
from weft.data.forms.offsets import Placed, placed
from weft.data.forms.pairs import Pairs
from weft.data.sentences import sentences
from weft.data.terms import pieces, word_places
from weft.tokenizer import Tokenizer

LABELS = ("other", "summary")


class Extractive(Unlabelled):
    """An example is ``[text, summary]``."""

    name = "extractive"
    labels: tuple[str, ...] = LABELS

    def __init__(self, fields: Sequence[str]):
        self._pairs = Pairs(fields)

    def example(self, record: Any) -> Parsed:
        """``([text, summary], reason, value)``."""
        return self._pairs.example(record)

    def key(self, example: Any) -> Any:
        """The text, however it is spaced."""
        return " ".join(example[0].split())

    def texts(self, example: Any) -> Sequence[str]:
        """The text: of the summary the model reads nothing."""
        return [example[0]]

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """One document each."""
        found = placed(tokenizer, [text for text, _ in examples])
        return [
            [Made(one.ids, labels=_labels(one, *example))]
            for one, example in zip(found, examples, strict=True)
        ]


def _labels(one: Placed, text: str, summary: str) -> list[int]:
    said = bytearray(len(text))
    for start, stop in _said(text, summary):
        said[start:stop] = b"\1" * (stop - start)
    labels = [IGNORED] * len(one.ids)
    for run in inside(one, sentences(text)):
        for token in run:
            start, stop = one.offsets[token]
            labels[token] = int(any(said[start:stop]))
    return labels


def _said(text: str, summary: str) -> list[tuple[int, int]]:
    """Where the words lie that the summary has beside the same neighbour."""
    places = word_places(text)
    # A compatibility form can stand for several words; the first is as good as any.
    words = [(pieces(text[start:stop]) or [""])[0] for start, stop in places]
    pairs = set(itertools.pairwise(pieces(summary)))
    kept = [pair in pairs for pair in itertools.pairwise(words)]
    return [
        place
        for place, before, after in zip(places, [False, *kept], [*kept, False], strict=False)
        if before or after
    ]


def inside(one: Placed, places: Sequence[tuple[int, int]]) -> list[range]:
    """The numbers of the tokens in each of the ``places``, which follow each other."""
    found, token, end = [], 0, len(one.offsets)
    for start, stop in places:
        while token < end and one.offsets[token][1] <= start:
            token += 1
        first = token
        while token < end and one.offsets[token][0] < stop:
            token += 1
        found.append(range(first, token))
    return found
