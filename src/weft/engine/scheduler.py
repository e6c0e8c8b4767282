"""Which sequences work in a step, and on how many of their tokens. Plain logic: no torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from weft.engine.blocks import BLOCK, BlockPool
from weft.engine.fair_queue import FairQueue, degree
from weft.engine.sequence import Sequence


@dataclass(frozen=True)
class Work:
    """Feed the next ``tokens`` uncached tokens of ``sequence`` to the model, then guessed ``drafts``."""

    sequence: Sequence
    tokens: int
    drafts: tuple[int, ...] = ()

    @property
    def last(self) -> bool:
        """Whether the sequence's newest token is among them, so that a new one can be drawn."""
        return self.tokens == self.sequence.uncached

    @property
    def rows(self) -> int:
        """Rows of the step that it takes."""
        return self.tokens + len(self.drafts)


class Scheduler:
    """At most ``slots`` sequences run at once, on the blocks of ``pool``, with a budget of tokens per step.

    Every running sequence decodes one token in every step; what the budget leaves goes to prompts, in
    chunks, so a giant prompt never starves the others; what they leave goes to drafts. A sequence gets the
    blocks of its prompt when it is admitted and more as it grows. When none is left, the running sequence
    of the lowest priority, among equals the youngest, gives up its blocks and waits again; its tokens are
    computed anew, but for those whose blocks are still found. The oldest of the highest priority is never
    stopped, so there is always progress.
    """

    def __init__(self, slots: int, token_budget: int, pool: BlockPool):
        self.slots, self.pool = slots, pool
        self.running: list[Sequence] = []
        self.prefix_queries = self.prefix_hits = self.preemptions = 0
        self._queue = FairQueue()
        self._token_budget = max(token_budget, slots + 1)
        self._step = 0

    def __iter__(self) -> Iterator[Sequence]:
        """Every sequence that runs or waits."""
        return chain(self.running, self._queue)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or len(self._queue))

    @property
    def waiting(self) -> int:
        """Sequences that do not run yet, or had to make way."""
        return len(self._queue)

    @property
    def free_slots(self) -> int:
        """How many more sequences could run, were there blocks for them."""
        return self.slots - len(self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._queue.arrive(sequence, self._step)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or aborted; its blocks are free from now on."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._let_go(sequence)
        self._queue.leave(sequence)

    def schedule(self) -> list[Work]:
        """The work of the next step: single tokens, then chunks of prompts, the best ranks first."""
        self._step += 1
        decodes = self._decodes()
        budget = self._token_budget - len(decodes)
        chunks: list[Work] = []
        prompts = [s for s in self._ranked() if s.uncached > 1]
        while budget > 0:
            sequence = prompts.pop(0) if prompts else self._admit()
            if sequence is None:
                break
            chunks.append(Work(sequence, min(budget, sequence.uncached)))
            budget -= chunks[-1].tokens
        return [*self._with_drafts(decodes, budget), *chunks]

    def advance(self, work: Work, accepted: int = 0) -> None:
        """``work`` was computed, and so many of its drafts are tokens of the sequence now."""
        sequence = work.sequence
        sequence.cached += work.tokens + accepted
        sequence.drafts = ()
        sequence.prompt_computed |= sequence.cached >= (sequence.prompt_length - 1) // BLOCK * BLOCK
        for place in range(sequence.sealed, sequence.cached // BLOCK):
            self.pool.seal(sequence.blocks[place], sequence.digest(place))
        sequence.sealed = max(sequence.sealed, sequence.cached // BLOCK)
        needed = _blocks(len(sequence.tokens))
        self.pool.release(sequence.blocks[needed:])
        del sequence.blocks[needed:]
        self._queue.serve(sequence.owner, work.rows)

    def check(self) -> None:
        """Raise InternalError unless every block is accounted for."""
        self.pool.check(sum(len(sequence.blocks) for sequence in self.running))

    def _ranked(self) -> list[Sequence]:
        return sorted(self.running, key=lambda s: (-degree(s, self._step), s.arrival))

    def _decodes(self) -> list[Work]:
        work: list[Work] = []
        for sequence in self._ranked():
            if sequence.uncached == 1 and sequence in self.running and self._grow(sequence):
                work.append(Work(sequence, 1))
        return work

    def _grow(self, sequence: Sequence) -> bool:
        """Whether ``sequence`` has a place for its newest token, after others made way if they must."""
        if len(sequence.blocks) * BLOCK >= len(sequence.tokens):
            return True
        while not self.pool.available:
            # The worst rank comes after all that have work in this step, or is this one itself.
            victim = self._ranked()[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks.append(self.pool.take())
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._let_go(sequence)
        self._queue.come_back(sequence)
        self.preemptions += 1

    def _let_go(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks.clear()
        sequence.cached = sequence.sealed = 0
        sequence.drafts = ()

    def _admit(self) -> Sequence | None:
        """The next of the queue with the blocks of all its tokens, if there is room for it."""
        if len(self.running) == self.slots:
            return None
        for sequence in self._queue.heads(self._step):
            if not sequence.leader_ready:
                continue
            sequence.take_scores()
            found = self._found(sequence)
            needed = _blocks(len(sequence.tokens)) - len(found) + sum(map(self.pool.idle, found))
            # Whoever runs may need another block soon; without these the newcomer would have to make way.
            # The next in rank is not passed over for a smaller one, or a large request would wait for ever.
            if needed + len(self.running) > self.pool.available:
                return None
            self._start(sequence, found)
            return sequence
        return None

    def _start(self, sequence: Sequence, found: list[int]) -> None:
        for block in found:
            self.pool.hold(block)
        fresh = _blocks(len(sequence.tokens)) - len(found)
        sequence.blocks = found + [self.pool.take() for _ in range(fresh)]
        sequence.cached, sequence.sealed = len(found) * BLOCK, len(found)
        if sequence.generated_length == 0:
            self.prefix_queries += sequence.prompt_length
            self.prefix_hits += sequence.cached
        self._queue.pop(sequence)
        self.running.append(sequence)

    def _found(self, sequence: Sequence) -> list[int]:
        """Blocks of its prefix that are known and may be used."""
        blocks: list[int] = []
        for place in range(sequence.reusable // BLOCK):
            block = self.pool.find(sequence.digest(place))
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _with_drafts(self, decodes: list[Work], budget: int) -> list[Work]:
        """Drafts on what budget and blocks are left; nobody makes way for a guess."""
        work: list[Work] = []
        for item in decodes:
            sequence = item.sequence
            drafts = sequence.drafts[: max(0, budget)]
            while drafts and len(sequence.blocks) * BLOCK < len(sequence.tokens) + len(drafts):
                if not self.pool.available:
                    drafts = drafts[: len(sequence.blocks) * BLOCK - len(sequence.tokens)]
                    break
                sequence.blocks.append(self.pool.take())
            budget -= len(drafts)
            work.append(Work(sequence, 1, drafts))
        return work


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)
