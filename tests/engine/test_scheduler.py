"""Scheduling as plain logic: order, slots, budget."""

from __future__ import annotations

import random

from weft.engine.params import SamplingParams
from weft.engine.scheduler import Scheduler, Work
from weft.engine.sequence import Sequence
from weft.engine.text import TextStream


def sequence(length: int) -> Sequence:
    return Sequence([0] * length, SamplingParams(), seed=0, limit=10, text=TextStream(None))


def advance(work: list[Work]) -> None:
    for item in work:
        last = item.last
        item.sequence.cached += item.tokens
        if last:
            item.sequence.tokens.append(0)


def shape(work: list[Work]) -> list[tuple[int | None, int]]:
    return [(item.sequence.slot, item.tokens) for item in work]


def test_prompts_in_chunks_beside_decodes():
    scheduler = Scheduler(slots=3, token_budget=10)
    scheduler.add(sequence(4))
    scheduler.add(sequence(25))
    steps = []
    for _ in range(4):
        work = scheduler.schedule()
        steps.append(shape(work))
        advance(work)
    assert steps == [[(0, 4), (1, 6)], [(0, 1), (1, 9)], [(0, 1), (1, 9)], [(0, 1), (1, 1)]]


def test_a_giant_prompt_never_stops_the_others():
    scheduler = Scheduler(slots=2, token_budget=8)
    small, giant = sequence(2), sequence(10_000)
    scheduler.add(small)
    advance(scheduler.schedule())
    scheduler.add(giant)
    for _ in range(20):
        work = scheduler.schedule()
        assert work[0] == Work(small, 1)
        assert sum(item.tokens for item in work) <= 8
        advance(work)


def test_first_come_first_served_and_slots_are_reused():
    scheduler = Scheduler(slots=2, token_budget=100)
    sequences = [sequence(3) for _ in range(4)]
    for each in sequences:
        scheduler.add(each)
    advance(scheduler.schedule())
    assert [each.slot for each in sequences] == [0, 1, None, None]
    scheduler.remove(sequences[0])
    assert sequences[0].slot is None
    assert shape(scheduler.schedule()) == [(1, 1), (0, 3)]
    assert [each.slot for each in sequences] == [None, 1, 0, None]


def test_a_waiting_sequence_can_be_removed_twice():
    scheduler = Scheduler(slots=1, token_budget=100)
    first, second = sequence(1), sequence(1)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.schedule()
    scheduler.remove(second)
    scheduler.remove(second)
    assert not scheduler.waiting
    scheduler.remove(first)
    assert not scheduler.busy and scheduler.free_slots == 1


def test_random_traffic_keeps_every_promise():
    chance = random.Random(4)
    scheduler = Scheduler(slots=4, token_budget=12)
    alive: list[Sequence] = []
    for _ in range(500):
        if chance.random() < 0.3:
            alive.append(sequence(chance.randint(1, 40)))
            scheduler.add(alive[-1])
        if alive and chance.random() < 0.2:
            scheduler.remove(alive.pop(chance.randrange(len(alive))))
        work = scheduler.schedule()
        slots = [item.sequence.slot for item in work]
        assert len(set(slots)) == len(slots) <= 4
        assert sum(item.tokens for item in work) <= 12
        assert all(1 <= item.tokens <= item.sequence.uncached for item in work)
        assert [item.tokens > 1 for item in work] == sorted(item.tokens > 1 for item in work)
        assert len(scheduler.running) + scheduler.free_slots == 4
        assert bool(work) == bool(alive)
        advance(work)
