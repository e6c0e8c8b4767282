"""Which sequences work in a step, and on how many of their tokens. Plain logic: no torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from weft.engine.blocks import BLOCK, BlockPool
from weft.engine.fair_queue import FairQueue, degree
from weft.engine.sequence import Beam, Sequence


@dataclass(slots=True)
class Work:
    """Feed the next ``tokens`` uncached tokens of ``sequence`` to the model, then guessed ``drafts``.

    Before that the encoder reads its source, ``source`` tokens, where it is not read yet. ``last``: whether
    the newest token is among them, so that a new one can be drawn; ``rows`` of a decoder's step that it
    takes, and those of them that are ``scored``: wanted by whoever draws.
    """

    sequence: Sequence
    tokens: int
    drafts: tuple[int, ...] = ()
    source: int = 0
    last: bool = field(init=False, compare=False)
    rows: int = field(init=False, compare=False)
    scored: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Once, since every part of a step asks for them.
        sequence = self.sequence
        beams, drafts = len(sequence.beams) or 1, len(self.drafts)
        self.last = self.tokens == len(sequence.tokens) - sequence.cached
        self.rows = self.tokens * beams + drafts
        self.scored = beams + drafts if self.last else 0

    @property
    def copies(self) -> list[tuple[int, int]]:
        """Blocks, and those that must have their content before the step."""
        return [(line.begun, line.blocks[-1]) for line in self.sequence.beams if line.begun is not None]

    @property
    def cost(self) -> int:
        """What it takes of the budget."""
        return self.rows + self.source


class Scheduler:
    """At most ``slots`` sequences run at once, on the blocks of ``pool``, with a budget of tokens per step.

    Every running sequence decodes one token in every step; what the budget leaves goes to prompts, in
    chunks, so a giant prompt never starves the others; what they leave goes to drafts. Prompts that are being
    read take turns like those that wait: the owner who was served least goes first. A sequence gets the
    blocks of its prompt when it is admitted and more as it grows. When none is left, the running sequence
    of the lowest priority, among equals the youngest, gives up its blocks and waits again; its tokens are
    computed anew, but for those whose blocks are still found. The oldest of the highest priority is never
    stopped, so there is always progress.

    A text whose vector is wanted needs no slot, for nothing is written after it: as many of them as there are
    slots are read beside the others, out of what the budget leaves.

    A search has one slot, and in each step a row and a block under way for every beam. Its beams are admitted
    and make way together; they share whole blocks, and of a block that is begun each has a copy. A search
    that made way begins anew.

    A source is read whole in one step, as every place of it sees all others: it waits for a step whose
    budget has room for it, and must be no longer than :attr:`longest_source`. What searches take beyond a row
    each is not counted against it, so it waits for no search to end; such a step exceeds the budget by that
    much, less than :attr:`most_rows`. It takes its blocks when the sequence is admitted and gives them up
    with the others; while they are found, it is not read again.
    """

    def __init__(self, slots: int, token_budget: int, pool: BlockPool):
        self.slots, self.pool = slots, pool
        self.running: list[Sequence] = []
        self._known: dict[Sequence, None] = {}
        self.prefix_queries = self.prefix_hits = self.preemptions = 0
        self._queue = FairQueue()
        self._token_budget = max(token_budget, slots + 1)
        self.most_rows = max(slots, self._token_budget // 2)
        self._step = 0

    def __iter__(self) -> Iterator[Sequence]:
        """Every sequence that runs or waits."""
        return chain(self.running, self._queue)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._known)

    @property
    def waiting(self) -> int:
        """Sequences that do not run yet, or had to make way."""
        return len(self._queue)

    @property
    def longest_source(self) -> int:
        """Tokens that can be read in a step beside all that decode."""
        return self._token_budget - self.slots

    @property
    def free_slots(self) -> int:
        """How many more sequences could run, were there blocks for them."""
        return self.slots - len(self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._queue.arrive(sequence, self._step)
        self._known[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, finished or aborted; its blocks are free from now on."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._let_go(sequence)
        self._queue.leave(sequence)
        self._known.pop(sequence, None)

    def schedule(self) -> list[Work]:
        """The work of the next step: single tokens, then chunks of prompts, the best ranks first."""
        self._step += 1
        ranked = self._ranked()
        decodes = self._decodes(ranked)
        rows = sum([work.rows for work in decodes])
        budget = self._token_budget - rows
        # A prompt takes what is left; a source cannot, and with all others behind it would wait for searches.
        beams = rows - len(decodes)
        chunks: list[Work] = []
        begun: list[Sequence] = []
        if len(decodes) < len(self.running):
            begun = [s for s in ranked if not s.decodes and s in self.running]
            begun.sort(key=lambda s: self._queue.turn(s, self._step))
        while budget > 0:
            sequence = self._next_prompt(begun, budget + beams)
            if sequence is None or sequence.unread > budget + beams:
                break
            source = sequence.unread
            room = budget + beams - source if source else budget
            chunks.append(Work(sequence, min(room, sequence.uncached), source=source))
            budget -= chunks[-1].cost
        return [*self._with_drafts(decodes, budget), *chunks]

    def advance(self, work: Work, accepted: int = 0) -> None:
        """``work`` was computed, and so many of its drafts are tokens of the sequence now."""
        sequence = work.sequence
        if work.source:
            sequence.encoded = True
            for place, block in enumerate(sequence.source_blocks):
                self.pool.seal(block, sequence.source_digest(place))
        sequence.cached += work.tokens + accepted
        sequence.drafts = ()
        if not sequence.prompt_computed:
            sequence.prompt_computed = sequence.cached >= (sequence.prompt_length - 1) // BLOCK * BLOCK
        # What a search writes is mostly given up again: only its prompt can be found.
        final = sequence.cached if sequence.search is None else sequence.prompt_length
        full = min(sequence.cached, final) // BLOCK
        if full > sequence.sealed:
            for place in range(sequence.sealed, full):
                self.pool.seal(sequence.blocks[place], sequence.digest(place))
            sequence.sealed = full
        needed = _blocks(len(sequence.tokens))
        if len(sequence.blocks) > needed:
            self.pool.release(sequence.blocks[needed:])
            del sequence.blocks[needed:]
        self._queue.serve(sequence.owner, work.rows + work.source)

    def fork(self, sequence: Sequence) -> None:
        """Go on with the beams that its search has chosen, each a token further; call :meth:`advance` before.

        Whole blocks are shared. A block that is begun stays with the first that goes on from a beam, and
        others get a copy in the next step.
        """
        assert sequence.search is not None
        parents, taken, beams = sequence.lines, set[int](), list[Beam]()
        whole = sequence.cached // BLOCK
        for total, number, token in sequence.search.ahead:
            parent = parents[number]
            beam = Beam([*parent.tokens, token], parent.blocks[:whole], total)
            begun = parent.blocks[whole:]
            if number not in taken:
                taken.add(number)
                beam.blocks += begun
            else:
                for block in beam.blocks:
                    self.pool.hold(block)
                beam.begun = begun[0] if begun else None
            beams.append(beam)
        for number, parent in enumerate(parents):
            if number not in taken:
                self.pool.release(parent.blocks)
        sequence.split(beams)

    def recover(self) -> None:
        """Whatever ran waits again, and nothing is in the cache: a step was left half way, anywhere.

        Tokens stay, but those of a search, which begins anew.
        """
        self.running, self._known = [], {one: None for one in self._known if not one.finished}
        self.pool.clear()
        for sequence in self._known:
            for blocks in sequence.held:
                blocks.clear()
            sequence.start_over()
        self._queue.restore(self._known)

    def check(self) -> None:
        """Raise InternalError unless every block is accounted for."""
        self.pool.check(sum(len(blocks) for s in self.running for blocks in s.held))

    def _ranked(self) -> list[Sequence]:
        return sorted(self.running, key=lambda s: (-degree(s, self._step), s.arrival))

    def _decodes(self, ranked: list[Sequence]) -> list[Work]:
        work: list[Work] = []
        for sequence in ranked:
            # Those behind it may make way for one that grows.
            if sequence.decodes and sequence in self.running and self._grow(sequence):
                work.append(Work(sequence, 1))
        return work

    def _grow(self, sequence: Sequence) -> bool:
        """Whether ``sequence`` has places for its newest tokens, after others made way if they must."""
        for line in sequence.lines:
            if len(line.blocks) * BLOCK >= len(line.tokens):
                continue
            while not self.pool.available:
                # The worst rank comes after all that have work in this step, or is this one itself.
                victim = self._ranked()[-1]
                self._preempt(victim)
                if victim is sequence:
                    return False
            line.blocks.append(self.pool.take())
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._let_go(sequence)
        sequence.start_over()
        self._queue.come_back(sequence)
        self.preemptions += 1

    def _let_go(self, sequence: Sequence) -> None:
        for blocks in sequence.held:
            self.pool.release(blocks)
            blocks.clear()

    def _next_prompt(self, begun: list[Sequence], room: int) -> Sequence | None:
        """Whose turn it is to have a prompt read: a newcomer, or one whose reading has begun."""
        newcomer = self._admit(room, begun[0] if begun else None)
        return begun.pop(0) if newcomer is None and begun else newcomer

    def _admit(self, room: int, rival: Sequence | None) -> Sequence | None:
        """The next of the queue with the blocks of all its tokens, if there is room for it.

        A source that is to be read must fit into ``room``, and its turn must come before that of ``rival``.
        """
        if not self.waiting:
            return None
        writers = [sequence for sequence in self.running if sequence.pooled is None]
        texts, rows = len(self.running) - len(writers), sum(sequence.width for sequence in writers)
        full = len(writers) == self.slots
        if full and texts == self.slots:
            return None
        for sequence in self._queue.heads(self._step, rival):
            if sequence.pooled is None and rows + sequence.width > self.most_rows:
                # A narrower one behind it must not take the rows that it waits for.
                full = True
            if (full if sequence.pooled is None else texts == self.slots) or not sequence.leader_ready:
                continue
            sequence.take_scores()
            source, found = self._found_source(sequence), self._found(sequence)
            if not source and sequence.unread > room:
                return None
            known = [*source, *found]
            needed = _blocks(sequence.kept_source) + _blocks(len(sequence.tokens))
            needed += sum(map(self.pool.idle, known)) - len(known)
            # Whoever runs may need another block soon; without these the newcomer would have to make way.
            # The next in rank is not passed over for a smaller one, or a large request would wait for ever.
            growing = sum(other.width for other in writers if other.tokens) + sequence.width - 1
            if needed + growing > self.pool.available:
                return None
            self._start(sequence, source, found)
            return sequence
        return None

    def _start(self, sequence: Sequence, source: list[int], found: list[int]) -> None:
        for block in (*source, *found):
            self.pool.hold(block)
        sequence.source_blocks = source or self._taken(_blocks(sequence.kept_source))
        sequence.encoded |= bool(source)
        sequence.blocks = found + self._taken(_blocks(len(sequence.tokens)) - len(found))
        sequence.cached, sequence.sealed = len(found) * BLOCK, len(found)
        if sequence.generated_length == 0 and sequence.pooled is None:
            self.prefix_queries += sequence.prompt_length + len(sequence.source)
            self.prefix_hits += sequence.cached + len(sequence.source) - sequence.unread
        self._queue.pop(sequence, self._step)
        self.running.append(sequence)

    def _taken(self, count: int) -> list[int]:
        return [self.pool.take() for _ in range(count)]

    def _found_source(self, sequence: Sequence) -> list[int]:
        """The blocks of its source if all of them are known."""
        places = range(_blocks(sequence.kept_source))
        blocks = [self.pool.find(sequence.source_digest(place)) for place in places]
        known = [block for block in blocks if block is not None]
        return known if len(known) == len(blocks) else []

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
            if not sequence.drafts:
                work.append(item)
                continue
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
