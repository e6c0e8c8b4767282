"""Packed rows of a plan as batches. B = rows of a batch, T = positions of a row, N = targets of a batch."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from weft.data.batch import IGNORED, Batch
from weft.data.packing import Plan

Ints = npt.NDArray[np.int64]
Learnt = Callable[[Ints], npt.NDArray[np.bool_]]
"""Which of the tokens with these numbers in the shard [N] carry loss."""

_LONG = 1 << 16


class Tokens(Protocol):
    """The tokens of a shard, wherever they lie."""

    def read(self, begins: Ints, lengths: Ints) -> npt.NDArray[np.integer]:
        """Tokens ``begins[i]`` to ``begins[i] + lengths[i]`` of each range, one after another, [sum]."""
        ...


class MappedTokens:
    """Tokens in a memory map, which is told that rows are read here and there.

    Without that the system reads far ahead of each of them: on a file not yet in memory 32 rows of 2,048
    tokens took 250 to 550 ms instead of 3.
    """

    def __init__(self, tokens: npt.NDArray[np.integer]) -> None:
        self._tokens = tokens
        self._map = tokens.base if isinstance(tokens.base, mmap.mmap) else None
        if self._map is not None:
            self._map.madvise(mmap.MADV_RANDOM)

    def read(self, begins: Ints, lengths: Ints) -> npt.NDArray[np.integer]:
        """As in :class:`Tokens`."""
        item = self._tokens.itemsize
        if self._map is not None:
            # Long pieces are worth asking for at once instead of page by page.
            for piece in np.flatnonzero(lengths * item >= _LONG).tolist():
                first = int(begins[piece]) * item // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, first, int(lengths[piece]) * item)
        return self._tokens[spread(begins, lengths)]


class Rows:
    """The rows of ``plan`` over ``tokens``, in which document i begins at ``starts[i]``."""

    def __init__(
        self, plan: Plan, starts: Ints, tokens: Tokens, eos_id: int, learnt: Learnt | None = None
    ) -> None:
        self.plan = plan
        self._starts, self._tokens, self._eos_id, self._learnt = starts, tokens, eos_id, learnt

    def assemble(self, rows: Ints) -> Batch:
        """The batch of these rows [B], whole arrays at a time."""
        plan, width = self.plan, self.plan.sequence_length
        first, counts = plan.row[rows], plan.row[rows + 1] - plan.row[rows]
        piece = spread(first, counts)
        length, start = plan.length[piece].astype(np.int64), plan.start[piece]
        begin = self._starts[plan.document[piece]] + start
        ends = np.cumsum(length)
        row = np.repeat(np.arange(len(rows)), counts)
        # Targets before each row of the batch, and so the place of each piece in its row.
        before = np.concatenate([np.zeros(1, np.int64), ends])[np.cumsum(counts) - counts]
        place = ends - length - before[row]
        position = spread(row * width + place, length)

        values = self._tokens.read(begin, length).astype(np.int64)
        inputs = np.empty_like(values)
        inputs[1:] = values[:-1]
        inputs[ends - length] = self._before(begin, start)
        if self._learnt is not None:
            values = np.where(self._learnt(spread(begin, length)), values, IGNORED)

        tokens = np.full(len(rows) * width, self._eos_id, np.int64)
        targets = np.full(len(rows) * width, IGNORED, np.int64)
        document_start = np.tile(np.arange(width, dtype=np.int32), len(rows))
        tokens[position], targets[position] = inputs, values
        document_start[position] = np.repeat(place, length)
        shape = len(rows), width
        return Batch(tokens.reshape(shape), targets.reshape(shape), document_start.reshape(shape))

    def _before(self, begin: Ints, start: Ints) -> Ints:
        """The token before each piece: the end of text before a document, else the one before the cut."""
        found = np.full(len(begin), self._eos_id, np.int64)
        inside = np.flatnonzero(start > 0)
        if len(inside):
            found[inside] = self._tokens.read(begin[inside] - 1, np.ones(len(inside), np.int64))
        return found


def spread(begins: Ints, lengths: Ints) -> Ints:
    """The numbers ``begins[i], ..., begins[i] + lengths[i] - 1`` of each range, one after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(total)
