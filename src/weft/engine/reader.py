"""Reading with an encoder: scores of many documents at once, packed into rows.

T tokens of a document, C classes, E model width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weft.core.errors import UsageError
from weft.models.baseline import Baseline
from weft.models.encoder import Encoder
from weft.models.heads import pool
from weft.ops.both_ways import BothWays

Floats = npt.NDArray[np.float64]

_ROW = 512
_ROWS = 8
"""Rows that are read together, each of a document longer than a row or of several shorter ones."""


class Reader:
    """An encoder ready to read documents, each of at most ``most`` tokens."""

    def __init__(self, model: Encoder | Baseline, end: int) -> None:
        """``end``: the token that fills rows up."""
        self.model, self._end = model.eval(), end

    @property
    def most(self) -> int:
        """Tokens of the longest document that the model was trained for."""
        return self.model.config.max_position_embeddings

    @torch.inference_mode()
    def classes(self, documents: Sequence[Sequence[int]]) -> Floats:
        """Scores float64 [N, C] of the documents, before the softmax."""
        found = np.zeros((len(documents), len(self.model.config.labels)))
        for hidden, context, places in self._read(documents):
            first = torch.tensor([flat for _, flat, _ in places])
            scores = self.model.classify(hidden, context, first).double().numpy()
            found[[number for number, _, _ in places]] = scores
        return found

    @torch.inference_mode()
    def tokens(self, documents: Sequence[Sequence[int]]) -> list[Floats]:
        """Scores float64 [T, C] of the tokens of each document, before the softmax."""
        found: list[Floats] = [np.zeros((0, 0))] * len(documents)
        for hidden, _, places in self._read(documents):
            scores = self.model.logits(hidden).flatten(0, 1).double().numpy()
            for number, flat, length in places:
                found[number] = scores[flat : flat + length]
        return found

    def tokens_of_long(self, documents: Sequence[Sequence[int]]) -> list[Floats]:
        """:meth:`tokens` of documents of any length: a longer one is read in windows that overlap by half.

        Each token is scored where it has most around it.
        """
        windows = [spread_windows(len(document), self.most) for document in documents]
        pieces = [
            document[first:stop]
            for document, found in zip(documents, windows, strict=True)
            for first, stop in found
        ]
        scores = iter(self.tokens(pieces))
        return [_joined(found, [next(scores) for _ in found]) for found in windows]

    @torch.inference_mode()
    def vectors(self, documents: Sequence[Sequence[int]]) -> Floats:
        """float64 [N, E]: the mean hidden state of each document."""
        found = np.zeros((len(documents), self.model.config.hidden_size))
        for hidden, context, places in self._read(documents):
            first = torch.tensor([flat for _, flat, _ in places])
            pooled = pool(hidden, context.start, context.end, first, "mean")
            found[[number for number, _, _ in places]] = pooled.double().numpy()
        return found

    def _read(
        self, documents: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Tensor, BothWays, list[tuple[int, int, int]]]]:
        """Hidden states of rows, what they see, and (document, flat place, length) of what lies in them."""
        for number, document in enumerate(documents):
            if not 0 < len(document) <= self.most:
                raise UsageError(
                    f"Text {number} has {len(document)} tokens and this model reads 1 to {self.most}; "
                    "shorten it, or train with a larger data.sequence_length."
                )
        order = sorted(range(len(documents)), key=lambda number: -len(documents[number]))
        rows: list[list[int]] = []
        room: list[int] = []
        width = max(_ROW, len(documents[order[0]])) if order else 0
        for number in order:
            length = len(documents[number])
            fitting = next((row for row, left in enumerate(room) if left >= length), None)
            if fitting is None:
                rows.append([])
                room.append(width)
                fitting = len(rows) - 1
            rows[fitting].append(number)
            room[fitting] -= length
        for first in range(0, len(rows), _ROWS):
            yield self._together(documents, rows[first : first + _ROWS])

    def _together(
        self, documents: Sequence[Sequence[int]], rows: list[list[int]]
    ) -> tuple[Tensor, BothWays, list[tuple[int, int, int]]]:
        width = max(sum(len(documents[number]) for number in row) for row in rows)
        tokens = np.full((len(rows), width), self._end, np.int64)
        start = np.tile(np.arange(width, dtype=np.int32), (len(rows), 1))
        places = []
        for place, row in enumerate(rows):
            begin = 0
            for number in row:
                length = len(documents[number])
                tokens[place, begin : begin + length] = documents[number]
                start[place, begin : begin + length] = begin
                places.append((number, place * width + begin, length))
                begin += length
        context = BothWays(torch.from_numpy(start))
        hidden = self.model(torch.from_numpy(tokens), context)
        return hidden, context, places


def spread_windows(length: int, most: int) -> list[tuple[int, int]]:
    """Places [first, stop) of at most ``most`` tokens that cover ``length`` of them, each half new."""
    if length <= most:
        return [(0, length)]
    step = max(1, most // 2)
    return [(first, first + most) for first in [*range(0, length - most, step), length - most]]


def _joined(windows: list[tuple[int, int]], scores: list[Floats]) -> Floats:
    """One row of scores a token: two windows share what both have, each the half that is nearer to it."""
    borders = [(after[0] + before[1]) // 2 for before, after in itertools.pairwise(windows)]
    edges = [windows[0][0], *borders, windows[-1][1]]
    return np.concatenate(
        [
            part[edges[n] - first : edges[n + 1] - first]
            for n, ((first, _), part) in enumerate(zip(windows, scores, strict=True))
        ]
    )
