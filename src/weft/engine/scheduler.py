"""Which sequences work in a step, and on how many of their tokens. Plain logic: no torch here."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from weft.engine.sequence import Sequence


@dataclass(frozen=True)
class Work:
    """Feed the next ``tokens`` uncached tokens of ``sequence`` to the model."""

    sequence: Sequence
    tokens: int

    @property
    def last(self) -> bool:
        """Whether the sequence's newest token is among them, so that a new one can be drawn."""
        return self.tokens == self.sequence.uncached


class Scheduler:
    """First come, first served, over a fixed number of slots and a budget of tokens per step.

    Every running sequence decodes one token in every step; what the budget leaves goes to prompts, in
    chunks, so a giant prompt never starves the others. A sequence keeps its slot from admission to end.
    """

    def __init__(self, slots: int, token_budget: int):
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._free = list(range(slots))
        self._token_budget = max(token_budget, slots + 1)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting)

    @property
    def free_slots(self) -> int:
        """Slots that no sequence holds."""
        return len(self._free)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def schedule(self) -> list[Work]:
        """The work of the next step: single tokens in the order of slots, then longer chunks likewise."""
        work = [Work(sequence, 1) for sequence in self.running if sequence.uncached == 1]
        budget = self._token_budget - len(work)
        prompts = [s for s in self.running if s.uncached > 1]
        while budget > 0:
            if not prompts and not (self.waiting and self._free):
                break
            sequence = prompts.pop(0) if prompts else self._admit()
            tokens = min(budget, sequence.uncached)
            work.append(Work(sequence, tokens))
            budget -= tokens
        return sorted(work, key=lambda item: (item.tokens > 1, item.sequence.slot))

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or aborted; its slot is free from now on."""
        if sequence.slot is None:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = None

    def _admit(self) -> Sequence:
        sequence = self.waiting.popleft()
        # The lowest slot keeps neighbours adjacent: adjacent slots attend in one call.
        sequence.slot = heapq.heappop(self._free)
        self.running.append(sequence)
        return sequence
