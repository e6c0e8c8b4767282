"""Requests that wait: by priority, then owners in turn, then first come first served. No torch here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain, takewhile
from operator import itemgetter

from weft.engine.sequence import Sequence

PATIENCE = 256
"""Steps of waiting in front of a line that count as one more degree of priority, so that nobody waits for
ever. Behind others of the same owner they do not count: a backlog would grow old as a whole, and then go
before whoever else comes."""


_TURN = itemgetter(0)
_Key = tuple[str, int, bool]
_Line = OrderedDict[Sequence, None]
"""By arrival. Whoever leaves is found at once, though tens of thousands wait."""


class FairQueue:
    """Waiting sequences, and how many tokens each owner has been served.

    Among equal priorities the owner that has been served least goes first (start-time fair queueing, Goyal
    et al. 1996). An owner that comes back is set beside the least served of those present, so that nobody
    saves up turns by being absent.
    """

    def __init__(self) -> None:
        self._lines: dict[_Key, _Line] = {}
        self._served: dict[str, int] = {}
        self._present: dict[str, int] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._lines.values())

    def arrive(self, sequence: Sequence, step: int) -> None:
        """A new request at the end of its owner's line; it stays present until :meth:`leave`."""
        sequence.arrival, sequence.arrival_step, sequence.in_front_step = self._arrivals, step, step
        self._arrivals += 1
        owner = sequence.owner
        if owner not in self._present:
            self._served[owner] = min(self._served.values(), default=0)
            self._present[owner] = 0
        self._present[owner] += 1
        self._line(sequence)[sequence] = None

    def leave(self, sequence: Sequence) -> None:
        """A request that has ended, wherever it was."""
        line = self._lines.get(_key(sequence))
        if line is not None and sequence in line:
            was_first = sequence is next(iter(line))
            del line[sequence]
            if was_first:
                self._move_up(line, sequence.in_front_step)
            self._drop_empty(sequence)
        self._present[sequence.owner] -= 1
        if not self._present[sequence.owner]:
            del self._present[sequence.owner], self._served[sequence.owner]

    def come_back(self, sequence: Sequence) -> None:
        """A preempted request takes its old place in the line."""
        line = self._line(sequence)
        earlier = list(takewhile(lambda other: other.arrival < sequence.arrival, line))
        line[sequence] = None
        for one in reversed([*earlier, sequence]):
            line.move_to_end(one, last=False)

    def restore(self, sequences: Iterable[Sequence]) -> None:
        """These wait, in the order of their arrival, and nobody else is present."""
        self._lines, self._present, served = {}, {}, self._served
        for sequence in sequences:
            self._present[sequence.owner] = self._present.get(sequence.owner, 0) + 1
            self._line(sequence)[sequence] = None
        least = min(served.values(), default=0)
        self._served = {owner: served.get(owner, least) for owner in self._present}

    def serve(self, owner: str, tokens: int) -> None:
        """``owner`` has had so many tokens computed."""
        self._served[owner] += tokens

    def heads(self, step: int, rival: Sequence | None = None) -> list[Sequence]:
        """Who may go next, best first: the first of every line whose turn is before that of ``rival``."""
        turns = [(self.turn(first, step), first) for first in map(next, map(iter, self._lines.values()))]
        bound = None if rival is None else self.turn(rival, step)
        return [first for turn, first in sorted(turns, key=_TURN) if bound is None or turn < bound]

    def turn(self, sequence: Sequence, step: int) -> tuple[int, int, int]:
        """What a sequence, waiting or not, is sorted by: the least goes first."""
        waited = (step - sequence.in_front_step) // PATIENCE
        return -sequence.priority - waited, self._served[sequence.owner], sequence.arrival

    def pop(self, sequence: Sequence, step: int) -> None:
        """The first of a line stops waiting."""
        line = self._lines[_key(sequence)]
        del line[sequence]
        self._move_up(line, step)
        self._drop_empty(sequence)

    def _move_up(self, line: _Line, step: int) -> None:
        """Whoever is first of ``line`` now is so since ``step``."""
        if line:
            first = next(iter(line))
            first.in_front_step = max(first.in_front_step, step)

    def _line(self, sequence: Sequence) -> _Line:
        return self._lines.setdefault(_key(sequence), OrderedDict())

    def _drop_empty(self, sequence: Sequence) -> None:
        if not self._lines[_key(sequence)]:
            del self._lines[_key(sequence)]


def _key(sequence: Sequence) -> _Key:
    """A text that is only read waits for no answer, and has a line of its own."""
    return sequence.owner, sequence.priority, sequence.pooled is not None


def degree(sequence: Sequence, step: int) -> int:
    """What a sequence that runs is worth at ``step``: its priority, and one for each PATIENCE it is old."""
    return sequence.priority + (step - sequence.arrival_step) // PATIENCE
