"""Speculation: guesses of the next tokens, verified together in one step, as many as pay. No torch here.

A guess is kept if it is the token that would have been drawn anyway (:func:`weft.engine.sampler.sample`), so
speculation changes no token, greedy or drawn; it only changes how many come in a step
(arXiv:2211.17192 proves the same for a more general rule). What is left is to guess well and to stop when
guessing does not pay.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from itertools import accumulate
from typing import Protocol

from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence
from weft.engine.step_times import StepTimes

MOST = 16
"""Guesses at a time for one sequence."""
_SIZES = (1, 2, 3, 4, 6, 8, 12, MOST)
_GAIN = 1.03
"""A plan must promise this much more than the next smaller one: timings are not exact."""
_MEMORY, _LONG_MEMORY = 0.95, 0.99
_LEAST_PROBE, _MOST_PROBE = 64, 4096
_MOST_REST = 7
"""Steps in a row without a look at guesses that cost nothing but the look."""
_LONGEST, _LOOKED_AT = 4, 32
"""Tokens that are compared, and places where they may stand: some pairs are everywhere."""


class Proposer(Protocol):
    """Where guesses come from. ``free``: they cost nothing, so they can be judged without being used;
    ``reading``: some were not guessed for, since their prompts are being read."""

    free: bool
    reading: bool

    def propose(self, sequences: Items[Sequence], count: int) -> list[tuple[int, ...]]:
        """At most ``count`` guesses of what follows the tokens of each sequence."""
        ...

    def seconds(self, count: int) -> float:
        """What ``count`` guesses for each of a few sequences take."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        ...

    def restart(self) -> None:
        """Whatever is known of sequences may be half done."""
        ...

    def check(self) -> None:
        """Raise InternalError if something is still held for sequences that have all ended."""
        ...


class PromptLookup:
    """What followed the last time that the newest tokens stood there (prompt lookup decoding, Saxena 2023).

    The longest of the last 4, 3 and 2 tokens that occurred before counts, among the latest places where the
    last 2 did. It needs no model, and is right where answers copy: code that is edited, texts that are
    summarised, names.
    """

    free = True
    reading = False

    def __init__(self) -> None:
        self._indexes: dict[Sequence, _Index] = {}

    def propose(self, sequences: Items[Sequence], count: int) -> list[tuple[int, ...]]:
        """As the protocol says."""
        return [self._guess(sequence, count) for sequence in sequences]

    def seconds(self, count: int) -> float:
        """Nothing worth measuring."""
        return 0.0

    def forget(self, sequence: Sequence) -> None:
        """As the protocol says."""
        self._indexes.pop(sequence, None)

    def restart(self) -> None:
        """As the protocol says."""
        self._indexes.clear()

    def check(self) -> None:
        """As the protocol says: it holds no blocks."""

    def _guess(self, sequence: Sequence, count: int) -> tuple[int, ...]:
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = _Index()
        tokens = sequence.tokens
        place = index.find(tokens)
        if place is None:
            return ()
        period = tokens[place : place + count]
        if len(period) == count:
            return tuple(period)
        # A short loop goes on as it went so far.
        return tuple((period * (count // len(period) + 1))[:count])


class _Index:
    """Where each pair of tokens was followed by something.

    One entry a token, and one look for what never stood there before: most steps of fresh text end with it.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], list[int]] = {}
        self._known = 2

    def find(self, tokens: list[int]) -> int | None:
        """The place after the newest tokens' last occurrence, the longest of at most _LONGEST."""
        places = self._places
        # The newest token has no follower yet.
        for end in range(self._known, len(tokens)):
            pair = (tokens[end - 2], tokens[end - 1])
            if pair in places:
                places[pair].append(end)
            else:
                places[pair] = [end]
        self._known = max(2, len(tokens))
        ends = places.get((tokens[-2], tokens[-1])) if len(tokens) > 2 else None
        return None if ends is None else _longest(tokens, ends)


def _longest(tokens: list[int], ends: list[int]) -> int:
    best, found = 0, ends[-1]
    for end in reversed(ends[-_LOOKED_AT:]):
        width = 2
        while width < min(_LONGEST, end) and tokens[end - width - 1] == tokens[-width - 1]:
            width += 1
        if width > best:
            best, found = width, end
        if width == _LONGEST:
            break
    return found


class Speculator:
    """Decides from measurements how many guesses each step verifies.

    It keeps the time of a step by its number of rows, and the share of guesses that were right, of each
    sequence. Of the plans "at most k guesses for each" the one with the most expected tokens per second is
    taken, and none where that gains nothing. Guesses that cost nothing are judged even when they are not
    used, but after one step, then three, then seven, while none is right and none would pay; others are tried
    again after pauses that double while they do not pay.
    """

    def __init__(self, proposer: Proposer):
        self._proposer = proposer
        self.proposed = self.accepted = 0
        self._times = StepTimes()
        self._right: dict[Sequence, float] = {}
        self._usual = 0.6
        self._guesses: dict[Sequence, tuple[int, ...]] = {}
        self._pause = self._rest = _LEAST_PROBE
        self._read_on = 0
        self._unwatched = self._watch_in = 0
        self._watched = False

    def propose(self, running: Items[Sequence]) -> None:
        """Set the drafts of the sequences that decode."""
        if self._guesses:
            self._guesses = {}
        self._watched = False
        if self._watch_in and not _anyone_begins(running):
            self._watch_in -= 1
            return
        sequences = [s for s in running if s.decodes and s.limit and s.search is None]
        if not sequences:
            return
        # What a step takes without guesses is what they are weighed against.
        self._watched = True
        if self._proposer.free:
            self._judge_free(sequences, running)
        else:
            room = _room(sequences)
            count = self._plan(sequences, room, _beside(sequences, running)) or self._probe()
            if count:
                self._use(sequences, self._proposer.propose(sequences, count), room, count)

    def _judge_free(self, sequences: list[Sequence], running: Items[Sequence]) -> None:
        """Guess, use as many guesses as pay, and look again the later the longer none did."""
        guesses, count = self._proposer.propose(sequences, MOST), 0
        if not any(guesses):
            # Most fresh text repeats nothing: then that was all, once it is known how long such a step takes.
            self._watched = not self._times.knows(len(running))
        else:
            room = [min(most, len(guess)) for most, guess in zip(_room(sequences), guesses, strict=True)]
            count = self._plan(sequences, room, _beside(sequences, running))
            self._use(sequences, guesses, room, count)
        self._unwatched = 0 if count else min(2 * self._unwatched + 1, _MOST_REST)
        self._watch_in = self._unwatched

    def _use(
        self, sequences: list[Sequence], guesses: list[tuple[int, ...]], room: list[int], count: int
    ) -> None:
        for sequence, guess, most in zip(sequences, guesses, room, strict=True):
            sequence.drafts = guess[: min(count, most)]
            self._guesses[sequence] = guess

    def observe(self, work: Items[Work], drawn: Items[Items[int]], seconds: float) -> None:
        """What a step took and brought: ``drawn`` has the tokens of each item that draws."""
        if self._guesses:
            self._judge_all(work, drawn)
        if self._watched and all(item.cost == item.rows and item.tokens == 1 for item in work):
            self._times.observe(sum(item.rows for item in work), seconds)

    def _judge_all(self, work: Items[Work], drawn: Items[Items[int]]) -> None:
        fresh = iter(drawn)
        for item in work:
            if not item.last:
                continue
            new = next(fresh)
            if guess := self._guesses.get(item.sequence, ()):
                self._judge(item.sequence, guess, new)
            self.proposed += len(item.drafts)
            self.accepted += max(0, len(new) - 1)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self._right.pop(sequence, None)
        self._proposer.forget(sequence)

    def restart(self) -> None:
        """A step was left half way."""
        self._guesses, self._right = {}, {}
        self._proposer.restart()

    def check(self) -> None:
        """As :meth:`Proposer.check`."""
        self._proposer.check()

    def _judge(self, sequence: Sequence, guess: tuple[int, ...], new: Items[int]) -> None:
        compared = min(len(guess), len(new))
        if not compared:
            return
        # A step goes on only behind right guesses, so none but the last can be wrong.
        wrong = guess[compared - 1] != new[compared - 1]
        right = compared - wrong
        if right:
            # What copies may have begun.
            self._unwatched = self._watch_in = 0
        share = 1 - (1 - self._right.get(sequence, self._usual)) * _MEMORY**right
        self._usual = 1 - (1 - self._usual) * _LONG_MEMORY**right
        if wrong:
            share, self._usual = share * _MEMORY, self._usual * _LONG_MEMORY
        self._right[sequence] = share

    def _plan(self, sequences: Items[Sequence], room: list[int], beside: tuple[int, int]) -> int:
        """How many guesses for each sequence promise the most tokens per second; 0 if none gains.

        ``beside``: requests of which nothing is guessed, and the rows that they take.
        """
        able = [
            (_GAINED[round(_LEVELS * self._right.get(sequence, self._usual))], most)
            for sequence, most in zip(sequences, room, strict=True)
            if most
        ]
        many, best = len(sequences) + beside[0], 0
        fewest = len(sequences) + beside[1]
        if many + sum([gained[most] for gained, most in able]) <= _GAIN * many:
            # Even steps that take no longer would bring no more, as with most fresh text.
            return 0
        fastest = many / self._times.expected(fewest)
        rooms = [most for _, most in able]
        shortest, longest = min(rooms), max(rooms)
        for count in _SIZES:
            if count > longest:
                break
            if count <= shortest:
                tokens, rows = sum([gained[count] for gained, _ in able]), count * len(able)
            else:
                tokens = sum([gained[min(count, most)] for gained, most in able])
                rows = sum([min(count, most) for most in rooms])
            seconds = self._times.expected(fewest + rows) + self._proposer.seconds(count)
            if (speed := (many + tokens) / seconds) > _GAIN * fastest:
                best, fastest = count, speed
        self._times.fade()
        return best

    def _probe(self) -> int:
        """Now and then a few guesses, to learn whether they have become good."""
        if self._proposer.reading and self._read_on:
            # One has begun; but where long prompts come one after another there is always one to be read.
            self._read_on -= 1
            return 2
        self._rest -= 1
        if self._rest > 0:
            return 0
        self._pause = min(2 * self._pause, _MOST_PROBE)
        self._rest, self._read_on = self._pause, _LEAST_PROBE
        return 2


def _anyone_begins(running: Items[Sequence]) -> bool:
    """Whether one has its first token, and repeats its prompt perhaps."""
    for sequence in running:  # noqa: SIM110 (a third of the time of any(...), in each step)
        if len(sequence.tokens) == sequence.prompt_length + 1:
            return True
    return False


def _room(sequences: Items[Sequence]) -> list[int]:
    """How many guesses of each could be kept."""
    return [max(0, min(MOST, s.limit - s.generated_length - 1)) for s in sequences]


def _beside(sequences: Items[Sequence], running: Items[Sequence]) -> tuple[int, int]:
    """The others that get a token in this step, which are searches, and the rows that they take."""
    decoding = [s for s in running if s.decodes]
    return len(decoding) - len(sequences), sum(len(s.lines) for s in decoding) - len(sequences)


def _gained(share: float) -> list[float]:
    """Tokens that 0, 1, ... guesses are expected to add to a step: each counts if all up to it are right."""
    return list(accumulate((share**guesses for guesses in range(1, MOST + 1)), initial=0.0))


_LEVELS = 128
_GAINED = [_gained(level / _LEVELS) for level in range(_LEVELS + 1)]
"""By the share of guesses that are right."""
