"""Beam search over one request: which texts go on and which answers are found. No torch here."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from weft.engine.params import check_number, check_whole

Candidate = tuple[float, int, int]
"""The sum of logarithms of a beam that goes on, its number, and its next token."""

WIDEST = 16
"""Beams of a search that an encoder-decoder's cache has room for, whatever its source, if memory allows."""


@dataclass(frozen=True)
class Written:
    """One answer: its ``tokens`` without start and end, and its ``score``.

    The score is the logarithm of the answer's probability, its end included, over its length to the power of
    the length penalty. ``ended``: the end was written, so that no limit cut the answer off.
    """

    tokens: tuple[int, ...]
    score: float
    ended: bool


@dataclass(frozen=True)
class Beams:
    """How answers are looked for: ``beams`` 1 is greedy.

    ``length_penalty``: 0 compares sums of logarithms, 1 their means (Wu et al. 2016, arXiv:1609.08144, use a
    power between). ``alternatives``: answers returned of each source, best first.
    """

    max_tokens: int = 128
    beams: int = 4
    length_penalty: float = 1.0
    alternatives: int = 1

    def __post_init__(self) -> None:
        check_whole("max_tokens", self.max_tokens, 1, 2**31)
        check_whole("beams", self.beams, 1, 2**31)
        check_whole("alternatives", self.alternatives, 1, self.beams)
        check_number("length_penalty", self.length_penalty, -20, 20)


class Search:
    """The answers that were found for one request, K beams wide; any token of ``ends`` ends one.

    It ends when no beam can beat the worst of K answers that are whole, as transformers does without early
    stopping, or at ``limit`` tokens: then what is written counts as an answer too.
    """

    def __init__(self, how: Beams, ends: Iterable[int], limit: int):
        self.how, self.ends, self.limit = how, frozenset(ends), limit
        self.start_over()

    def start_over(self) -> None:
        """Nothing is found yet."""
        self.finished: list[Written] = []
        self.ahead: list[Candidate] = []
        self.done = False

    @property
    def candidates(self) -> int:
        """How many of the best continuations must be looked at, for K of them do not end."""
        return self.how.beams * (1 + len(self.ends))

    def take(self, length: int, best: Iterable[Candidate], written: Callable[[int], Sequence[int]]) -> None:
        """Of the ``best`` continuations to ``length`` tokens K go on, :attr:`ahead`; those that end are kept.

        ``written`` gives what a beam holds. Sets :attr:`done` when nothing better can come.
        """
        ahead: list[Candidate] = []
        for rank, (total, beam, token) in enumerate(best):
            if token not in self.ends:
                ahead.append((total, beam, token))
            elif rank < self.how.beams:
                self._keep(total, length, written(beam), ended=True)
            if len(ahead) == self.how.beams:
                break
        self.done |= not ahead
        if ahead and len(self.finished) == self.how.beams:
            self.done |= self._score(ahead[0][0], length) <= self.finished[-1].score
        if not self.done and length == self.limit:
            for total, beam, token in ahead:
                self._keep(total, length, (*written(beam), token), ended=False)
            self.done = True
        self.ahead = ahead

    @property
    def answers(self) -> list[Written]:
        """As many as were asked for, best first."""
        return self.finished[: self.how.alternatives]

    def _keep(self, total: float, length: int, tokens: Sequence[int], *, ended: bool) -> None:
        """Note an answer, and forget the worst of more than K."""
        self.finished.append(Written(tuple(tokens), self._score(total, length), ended))
        self.finished.sort(key=lambda answer: -answer.score)
        del self.finished[self.how.beams :]

    def _score(self, total: float, length: int) -> float:
        return total / float(length**self.how.length_penalty)


def likeliest(
    totals: Sequence[float], rows: Iterable[Iterable[tuple[int, float]]], count: int
) -> list[Candidate]:
    """The ``count`` best continuations of beams, of each its sum and its (token, logarithm) pairs.

    The best come first, equal ones in the order of beams and pairs.
    """
    grown = (
        (total + log, beam, token)
        for beam, (total, row) in enumerate(zip(totals, rows, strict=True))
        for token, log in row
    )
    return heapq.nlargest(count, grown, key=lambda candidate: candidate[0])
