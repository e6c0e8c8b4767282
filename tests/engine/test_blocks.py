"""Blocks: who holds which, which prefixes are found, what is evicted first, and that nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft.core.errors import InternalError
from weft.engine.blocks import BLOCK, BlockPool, link, root


def test_digests_depend_on_everything_before_and_on_the_salt():
    tokens = list(range(BLOCK))
    digests = {
        link(root("a"), tokens),
        link(root("b"), tokens),
        link(root("a", ""), tokens),
        link(link(root("a"), tokens), tokens),
        link(root("a"), [*tokens[:-1], 0]),
    }
    assert len(digests) == 5
    assert link(root("a"), tokens) == link(root("a"), tokens)
    assert root("ab", "c") != root("a", "bc")
    assert root("\ud800") != root("?")


def test_a_sealed_block_is_found_until_its_space_is_needed():
    pool = BlockPool(2)
    first, second = pool.take(), pool.take()
    pool.seal(first, b"first")
    pool.release([first, second])
    assert pool.available == 2 and pool.find(b"first") == first
    assert pool.take() == second
    assert pool.find(b"first") == first
    assert pool.take() == first
    assert pool.find(b"first") is None
    with pytest.raises(InternalError, match="none was left"):
        pool.take()


def test_the_end_of_a_prefix_is_evicted_before_its_beginning():
    pool = BlockPool(3)
    blocks = [pool.take() for _ in range(3)]
    for place, block in enumerate(blocks):
        pool.seal(block, bytes([place]))
    pool.release(blocks)
    pool.take()
    assert [pool.find(bytes([place])) is not None for place in range(3)] == [True, True, False]


def test_what_was_used_last_is_evicted_last():
    pool = BlockPool(2)
    old, new = pool.take(), pool.take()
    pool.seal(old, b"old")
    pool.seal(new, b"new")
    pool.release([old])
    pool.release([new])
    pool.hold(old)
    pool.release([old])
    pool.take()
    assert pool.find(b"new") is None and pool.find(b"old") == old


def test_letting_go_twice_and_lost_references_are_noticed():
    pool = BlockPool(4)
    block = pool.take()
    with pytest.raises(InternalError, match="do not balance"):
        pool.check(held=0)
    pool.release([block])
    pool.check(held=0)
    with pytest.raises(InternalError, match="twice"):
        pool.release([block])


def test_forgetting_all_prefixes_keeps_what_is_held():
    pool = BlockPool(3)
    held, kept = pool.take(), pool.take()
    pool.seal(held, b"held")
    pool.seal(kept, b"kept")
    pool.release([kept])
    pool.forget_all()
    assert pool.find(b"held") is None and pool.find(b"kept") is None
    assert pool.available == 2
    pool.check(held=1)
    pool.release([held])
    assert pool.available == 3


class Traffic(RuleBasedStateMachine):
    """Takes, seals, finds and releases in any order."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(6)
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @precondition(lambda self: self.pool.available)
    @rule(digest=st.one_of(st.none(), st.sampled_from([b"1", b"2", b"3", b"4"])))
    def take(self, digest):
        block = self.pool.take()
        assert all(block not in blocks for blocks in self.held)
        self.content.pop(block, None)
        self.held.append([block])
        if digest is not None:
            known = self.pool.find(digest)
            self.pool.seal(block, digest)
            if known is None:
                self.content[block] = digest

    @rule(digest=st.sampled_from([b"1", b"2", b"3", b"4"]))
    def share(self, digest):
        block = self.pool.find(digest)
        if block is not None:
            assert self.content[block] == digest
            self.pool.hold(block)
            self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        self.pool.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def balanced(self):
        self.pool.check(len(self.held))
        assert self.pool.available == 6 - len({block for blocks in self.held for block in blocks})


Traffic.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTraffic = Traffic.TestCase
