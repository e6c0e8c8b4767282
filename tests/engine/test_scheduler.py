"""Scheduling as plain logic: order, blocks, budget, preemption, turns of owners."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.engine.blocks import BLOCK, BlockPool
from weft.engine.fair_queue import PATIENCE, FairQueue
from weft.engine.params import SamplingParams
from weft.engine.scheduler import Scheduler, Work
from weft.engine.search import Beams, Search
from weft.engine.sequence import Sequence
from weft.engine.text import TextStream


def sequence(length: int, first: int = 0, leader: Sequence | None = None, **changes) -> Sequence:
    settings = {"seed": 0, "limit": 10**6, "text": TextStream(None), **changes}
    made = Sequence([first] * length, SamplingParams(), **settings)
    made.leader = leader
    return made


def scheduler(slots: int, budget: int, blocks: int = 10_000) -> Scheduler:
    return Scheduler(slots, budget, BlockPool(blocks))


def advance(engine: Scheduler, work: list[Work], accepted: int = 0) -> None:
    for item in work:
        if item.last:
            item.sequence.tokens += [*item.drafts[:accepted], 0]
        engine.advance(item, min(accepted, len(item.drafts)))


def shape(work: list[Work], names: dict[Sequence, str]) -> list[tuple[str, int]]:
    return [(names[item.sequence], item.tokens) for item in work]


def test_prompts_in_chunks_beside_decodes():
    engine = scheduler(3, 10)
    small, large = sequence(4, 1), sequence(25, 2)
    names = {small: "small", large: "large"}
    engine.add(small)
    engine.add(large)
    steps = []
    for _ in range(4):
        work = engine.schedule()
        steps.append(shape(work, names))
        advance(engine, work)
    assert steps == [
        [("small", 4), ("large", 6)],
        [("small", 1), ("large", 9)],
        [("small", 1), ("large", 9)],
        [("small", 1), ("large", 1)],
    ]


def test_a_giant_prompt_never_stops_the_others():
    engine = scheduler(2, 8)
    small, giant = sequence(2, 1), sequence(10_000, 2)
    engine.add(small)
    advance(engine, engine.schedule())
    engine.add(giant)
    for _ in range(20):
        work = engine.schedule()
        assert work[0] == Work(small, 1)
        assert sum(item.rows for item in work) <= 8
        advance(engine, work)


def test_a_giant_prompt_of_one_owner_holds_up_no_prompt_of_another():
    engine = scheduler(4, 64)
    giant, next_giant = sequence(10_000, 1, owner="a"), sequence(500, 2, owner="a")
    engine.add(giant)
    engine.add(next_giant)
    advance(engine, engine.schedule())
    small = sequence(30, 3, owner="b")
    engine.add(small)
    for _ in range(2):
        work = engine.schedule()
        advance(engine, work)
    assert work[0] == Work(small, 30) and work[1].sequence is giant
    assert next_giant not in engine.running, "within an owner the first is read first"
    important = sequence(3, 4, owner="a", priority=1)
    engine.add(important)
    assert Work(important, 3) in engine.schedule()


def test_first_come_first_served_within_an_owner():
    engine = scheduler(2, 100)
    sequences = [sequence(3, i) for i in range(4)]
    for each in sequences:
        engine.add(each)
    advance(engine, engine.schedule())
    assert engine.running == sequences[:2] and engine.free_slots == 0 and engine.waiting == 2
    engine.remove(sequences[0])
    engine.schedule()
    assert engine.running == sequences[1:3]


def test_a_waiting_sequence_can_be_aborted():
    engine = scheduler(1, 100)
    first, second = sequence(1), sequence(1)
    engine.add(first)
    engine.add(second)
    engine.schedule()
    engine.remove(second)
    assert not engine.waiting
    engine.remove(first)
    assert not engine.busy and engine.free_slots == 1
    engine.check()


def test_equal_prefixes_are_computed_once_and_only_within_an_owner():
    engine = scheduler(4, 1000)
    length = 3 * BLOCK + 5
    first = sequence(length, owner="a")
    engine.add(first)
    advance(engine, engine.schedule())
    again, other = sequence(length, owner="a"), sequence(length, owner="b")
    engine.add(again)
    engine.add(other)
    work = {item.sequence: item.tokens for item in engine.schedule()}
    assert work[again] == 5 and work[other] == length
    assert again.blocks[:3] == first.blocks[:3] and again.blocks[3] != first.blocks[3]
    assert (engine.prefix_hits, engine.prefix_queries) == (3 * BLOCK, 3 * length)
    for each in (first, again, other):
        engine.remove(each)
    engine.check()


def test_the_newest_token_is_always_computed():
    engine = scheduler(4, 1000)
    first, again = sequence(2 * BLOCK), sequence(2 * BLOCK)
    engine.add(first)
    advance(engine, engine.schedule())
    engine.add(again)
    assert [item.tokens for item in engine.schedule() if item.sequence is again] == [BLOCK]


def test_samples_wait_for_the_prompt_of_the_first():
    engine = scheduler(4, 2 * BLOCK)
    first = sequence(4 * BLOCK + 3)
    rest = [sequence(4 * BLOCK + 3, leader=first) for _ in range(2)]
    for each in (first, *rest):
        engine.add(each)
    for _ in range(2):
        work = engine.schedule()
        assert [item.sequence for item in work] == [first]
        advance(engine, work)
    work = {item.sequence: item.tokens for item in engine.schedule()}
    assert work == {first: 3, rest[0]: 3, rest[1]: 3}


def test_an_aborted_leader_keeps_nobody_waiting():
    engine = scheduler(4, BLOCK)
    first = sequence(4 * BLOCK)
    second = sequence(4 * BLOCK, leader=first)
    engine.add(first)
    engine.add(second)
    engine.schedule()
    first.finish_reason = "abort"
    engine.remove(first)
    assert [item.sequence for item in engine.schedule()] == [second]


def test_the_youngest_of_the_lowest_priority_makes_way_and_comes_back():
    engine = scheduler(4, 1000, blocks=7)
    important = sequence(BLOCK - 1, 1, priority=1)
    old, young = sequence(2 * BLOCK, 2), sequence(BLOCK, 3)
    for each in (young, old, important):
        each.owner = ""
    for each in (old, young, important):
        engine.add(each)
    advance(engine, engine.schedule())
    assert set(engine.running) == {important, old, young}
    while not engine.preemptions:
        advance(engine, engine.schedule())
    assert young not in engine.running and young.cached == 0 and not young.blocks
    assert engine.waiting == 1
    engine.remove(old)
    work = engine.schedule()
    assert young in [item.sequence for item in work]
    tokens = next(item.tokens for item in work if item.sequence is young)
    assert tokens < len(young.tokens), "blocks that were still there were not computed again"


def test_owners_take_turns():
    engine = scheduler(1, 100)
    greedy = [sequence(40, i, owner="greedy") for i in range(5)]
    modest = sequence(40, 9, owner="modest")
    for each in (*greedy, modest):
        engine.add(each)
    order = []
    while engine.busy:
        work = engine.schedule()
        order.append(work[0].sequence)
        advance(engine, work)
        engine.remove(work[0].sequence)
    assert order.index(modest) == 1


def test_a_backlog_that_grew_old_does_not_hold_up_who_comes_fresh():
    """A key that always has requests waiting, each of them longer than the patience of the queue."""
    engine = scheduler(2, 100)
    modest, added = None, 0
    for step in range(8 * PATIENCE):
        while engine.waiting < 12 and modest is None:
            engine.add(sequence(5, owner="greedy", limit=100))
            added += 1
        if step == 6 * PATIENCE:
            modest = sequence(5, owner="modest", limit=100)
            engine.add(modest)
        work = engine.schedule()
        if any(item.sequence is modest for item in work):
            break
        advance(engine, work)
        for item in work:
            if item.sequence.generated_length >= item.sequence.limit:
                engine.remove(item.sequence)
    assert added > 20 and step - 6 * PATIENCE <= 100, "the modest one would have waited for the backlog"


def test_who_leaves_the_front_of_a_line_leaves_no_age_behind():
    queue = FairQueue()
    first, second, other = (sequence(1, owner=owner) for owner in ("a", "a", "b"))
    for each, step in ((first, 0), (second, 0), (other, 1)):
        queue.arrive(each, step)
    queue.pop(first, 2 * PATIENCE)
    queue.serve("a", 1)
    assert queue.heads(3 * PATIENCE) == [other, second]
    queue.come_back(first)
    queue.leave(first)
    assert queue.heads(3 * PATIENCE - 1) == [other, second]
    assert queue.turn(second, 3 * PATIENCE) < queue.turn(second, 3 * PATIENCE - 1)


def test_a_line_is_in_the_order_of_arrival_whoever_leaves_and_comes_back():
    chance, queue, away = random.Random(3), FairQueue(), []
    line = [sequence(1) for _ in range(20)]
    for each in line:
        queue.arrive(each, 0)
    while len(queue):
        match chance.randrange(3):
            case 0:
                away.append(queue.heads(0)[0])
                queue.pop(away[-1], 0)
            case 1 if away:
                queue.come_back(away.pop(chance.randrange(len(away))))
            case 2:
                gone = chance.choice(list(queue))
                queue.leave(gone)
                line.remove(gone)
        assert list(queue) == [each for each in line if each not in away]


def test_an_owner_cannot_save_turns_by_being_absent():
    engine = scheduler(1, 100)
    busy = [sequence(90, i, owner="busy") for i in range(4)]
    for each in busy:
        engine.add(each)
    for each in busy[:2]:
        advance(engine, engine.schedule())
        engine.remove(each)
    late = [sequence(90, 10 + i, owner="late") for i in range(3)]
    for each in late:
        engine.add(each)
    order = []
    while engine.busy:
        work = engine.schedule()
        order.append(work[0].sequence.owner)
        advance(engine, work)
        engine.remove(work[0].sequence)
    assert order[:4].count("busy") == 2, "the late owner would have gone three times in a row"


def test_greater_priority_goes_first_but_patience_ends():
    engine = scheduler(1, 100)
    humble = sequence(1, owner="humble")
    engine.add(humble)
    engine.add(sequence(1, owner="lord", priority=1))
    served = 0
    while engine.waiting or served < 3 * PATIENCE:
        work = engine.schedule()
        if work[0].sequence is humble:
            break
        served += 1
        advance(engine, work)
        engine.remove(work[0].sequence)
        engine.add(sequence(1, owner="lord", priority=1))
    assert 0 < served <= 2 * PATIENCE


def test_drafts_use_what_budget_and_blocks_are_left():
    engine = scheduler(2, 20, blocks=3)
    each = sequence(BLOCK - 2)
    engine.add(each)
    advance(engine, engine.schedule())
    each.drafts = (5, 6, 7)
    (work,) = engine.schedule()
    assert work.drafts == (5, 6, 7) and len(each.blocks) == 2
    advance(engine, [work], accepted=2)
    assert each.tokens[-3:] == [5, 6, 0] and each.cached == len(each.tokens) - 1
    engine.check()
    each.drafts = tuple(range(100))
    (work,) = engine.schedule()
    assert work.rows == 20


def test_rejected_drafts_leave_no_block_behind():
    engine = scheduler(1, 100, blocks=4)
    each = sequence(BLOCK - 1)
    engine.add(each)
    advance(engine, engine.schedule())
    each.drafts = tuple(range(BLOCK))
    (work,) = engine.schedule()
    assert len(each.blocks) == 2
    advance(engine, [work])
    assert len(each.blocks) == 2 and len(each.tokens) == BLOCK + 1
    engine.remove(each)
    engine.check()


def test_a_source_waits_for_a_step_that_has_room_for_all_of_it():
    engine = scheduler(3, 20)
    small, large = sequence(1, 1, source=range(12)), sequence(1, 2, source=range(17))
    engine.add(small)
    engine.add(large)
    steps = []
    for _ in range(3):
        work = engine.schedule()
        steps.append([(item.source, item.tokens) for item in work])
        advance(engine, work)
    assert steps == [[(12, 1)], [(0, 1), (17, 1)], [(0, 1), (0, 1)]]
    assert engine.longest_source == 17
    assert [len(each.source_blocks) for each in (small, large)] == [1, 2]
    engine.check()


def test_an_equal_source_is_read_once_and_only_within_an_owner():
    engine = scheduler(4, 1000)
    first = sequence(1, source=range(40), owner="a")
    engine.add(first)
    advance(engine, engine.schedule())
    others = [sequence(1, source=range(40), owner=owner) for owner in "ab"]
    # The end of a source changes all of it.
    others.append(sequence(1, source=range(41), owner="a"))
    for each in others:
        engine.add(each)
    read = {item.sequence: item.source for item in engine.schedule()}
    assert [read[each] for each in others] == [0, 40, 41]
    assert others[0].source_blocks == first.source_blocks
    for each in (first, *others):
        engine.remove(each)
    engine.check()


def test_what_is_only_read_ends_after_its_step_and_takes_no_blocks():
    engine = scheduler(8, 30, blocks=0)
    documents = [sequence(0, source=range(10)) for _ in range(4)]
    for each in documents:
        engine.add(each)
    sizes = []
    while engine.busy:
        work = engine.schedule()
        sizes.append([item.source for item in work])
        assert all(item.last for item in work)
        for item in work:
            engine.advance(item)
            engine.remove(item.sequence)
    assert sizes == [[10, 10, 10], [10]]
    engine.check()


arrivals = st.lists(
    st.tuples(
        st.integers(0, 3),  # steps before it comes
        st.integers(1, 40),  # prompt
        st.integers(1, 12),  # answer
        st.sampled_from("abc"),
        st.integers(0, 2),  # priority
        st.integers(0, 4),  # first token: prompts share prefixes
        st.booleans(),  # aborted half way
        st.integers(0, 20),  # source
    ),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(arrivals, st.integers(1, 5), st.integers(1, 40), st.integers(4, 12), st.integers(0, 3))
def test_any_traffic_keeps_every_promise(requests, slots, budget, blocks, guesses):
    engine = scheduler(slots, budget, blocks)
    pending = list(requests)
    goal: dict[Sequence, int] = {}
    aborted: set[Sequence] = set()
    steps = 0
    while pending or goal:
        steps += 1
        assert steps < 2_000, "somebody waits for ever"
        while pending and pending[0][0] <= 0:
            _, prompt, answer, owner, priority, first, abort, length = pending.pop(0)
            # What could never fit is refused before it comes here.
            source = range(min(length, engine.longest_source, (blocks - 4) * BLOCK))
            each = sequence(prompt, first, owner=owner, priority=priority, source=source)
            goal[each] = prompt + answer
            if abort:
                aborted.add(each)
            engine.add(each)
        if pending:
            pending[0] = (pending[0][0] - 1, *pending[0][1:])
        for each in engine.running:
            each.drafts = tuple(range(guesses)) if each.uncached == 1 else ()
        work = engine.schedule()
        assert bool(work) == bool(goal)
        assert sum(item.cost for item in work) <= max(budget, slots + 1)
        assert len({item.sequence for item in work}) == len(work) <= slots
        for item in work:
            assert item.sequence in engine.running
            assert 0 <= item.tokens <= item.sequence.uncached and item.cost
            assert item.source == item.sequence.unread
            assert len(item.sequence.source_blocks) * BLOCK >= len(item.sequence.source)
            assert len(item.sequence.blocks) * BLOCK >= item.sequence.cached + item.rows
        engine.check()
        advance(engine, work, accepted=guesses // 2)
        for each in [
            each for each in goal if len(each.tokens) >= goal[each] or (each in aborted and steps % 3 == 0)
        ]:
            each.finish_reason = "length"
            engine.remove(each)
            del goal[each]
        engine.check()
    assert not engine.busy and engine.pool.available == blocks


def move_beams(engine: Scheduler, work: list[Work]) -> None:
    """As :func:`advance`; the beams of a search go on from one another."""
    for item in work:
        search = item.sequence.search
        if not item.last or search is None:
            advance(engine, [item])
            continue
        engine.advance(item)
        beams = len(item.sequence.lines)
        search.ahead = [(0.0, number % beams, number) for number in range(search.how.beams)]
        engine.fork(item.sequence)


searches = st.lists(
    st.tuples(
        st.integers(0, 3),  # steps before it comes
        st.sampled_from([1, 3, 8, 16]),  # beams
        st.integers(1, 20),  # answer
        st.integers(0, 40) | st.just(100),  # source
        st.sampled_from("ab"),
    ),
    min_size=3,
    max_size=10,
)


@settings(max_examples=150, deadline=None)
@given(searches, st.integers(1, 5), st.integers(8, 40), st.integers(16, 40), st.booleans())
def test_no_source_waits_for_a_search_to_end(requests, slots, budget, blocks, plenty):
    blocks *= 1000 if plenty else 1
    engine = scheduler(slots, budget, blocks)
    pending, goal, steps = list(requests), dict[Sequence, int](), 0
    while pending or goal:
        steps += 1
        assert steps < 1_000, "somebody waits for ever"
        while pending and pending[0][0] <= 0:
            _, beams, answer, length, owner = pending.pop(0)
            # What could never fit is refused before it comes here.
            source = range(min(length, engine.longest_source))
            beams = min(beams, engine.most_rows, (blocks - 3) // 2)
            search = Search(Beams(answer, beams), (), answer) if beams > 1 else None
            each = sequence(1, owner=owner, source=source, search=search)
            goal[each] = 1 + answer
            engine.add(each)
        if pending:
            pending[0] = (pending[0][0] - 1, *pending[0][1:])
        work = engine.schedule()
        assert bool(work) == bool(goal)
        rows = [item.rows for item in work if item.sequence.decodes]
        assert sum(item.cost for item in work) <= max(budget, slots + 1) + sum(rows) - len(rows)
        taken = sum(each.width for each in engine.running)
        if plenty and engine.waiting and engine.free_slots:
            first = engine._queue.heads(engine._step)[0]
            assert taken + first.width > engine.most_rows or any(item.source for item in work)
        engine.check()
        move_beams(engine, work)
        for each in [each for each in goal if len(each.tokens) >= goal[each]]:
            each.finish_reason = "length"
            engine.remove(each)
            del goal[each]
        engine.check()
    assert not engine.busy and engine.pool.available == blocks
