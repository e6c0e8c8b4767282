"""A Ctrl-C at any moment of a step leaves an engine that goes on to the same answers, and loses no block."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import sys
from types import SimpleNamespace

import pytest
import torch

import weft.engine.draft
import weft.engine.llm
from weft.engine import LLM, SamplingParams
from weft.engine.early_exit import early_exit
from weft.engine.llm import _LEFT
from weft.engine.params import Grammar
from weft.engine.search import Beams
from weft.engine.weights import for_inference
from weft.ops.paged import Pages

TRIES = 60


class Interrupter:
    """Raises KeyboardInterrupt before the ``at``-th instruction of the engine's own code; 0: only counts.

    Not within functions of the name ``skip``.
    """

    def __init__(self, at: int, skip: str = "_recover"):
        self.at, self.skip, self.count = at, skip, 0

    def __enter__(self):
        sys.settrace(self)
        return self

    def __exit__(self, *exception):
        sys.settrace(None)

    def __call__(self, frame, event, argument):
        if "/weft/engine/" not in frame.f_code.co_filename or frame.f_code.co_name == self.skip:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


@pytest.fixture(autouse=True)
def readings(monkeypatch):
    """How much is guessed depends on measured times, and the number of instructions on how much is guessed:
    the clock goes on with each reading, on every machine alike."""
    moments = map(float, itertools.count())
    clock = SimpleNamespace(perf_counter=lambda: next(moments))
    for module in (weft.engine.llm, weft.engine.draft):
        monkeypatch.setattr(module, "time", clock)


def asked(model, tokenizer, kind):
    """An engine with few blocks, so that requests make way, and requests of all kinds."""
    plain = for_inference(model, torch.device("cpu"), "float32")
    draft = early_exit(model, 1) if kind == "draft" else None
    # Too few for all that run.
    memory = 7 * Pages.block_bytes(2, 2, 8, torch.float32)
    engine = LLM(plain, tokenizer, max_sequences=3, token_budget=24, cache_bytes=memory, draft=draft)
    greedy = SamplingParams(temperature=0, max_tokens=14, ignore_eos=True, logprobs=1)
    drawn = SamplingParams(temperature=0.8, seed=5, max_tokens=9, stop=("\n\n",), prompt_logprobs=0)
    choice = SamplingParams(
        temperature=0, max_tokens=20, grammar=Grammar("choice", '["yes, of course", "no"]')
    )
    prompt = [7, 8, 9, 7, 8, 9, 7, 8]
    requests = [
        engine.add(prompt * 5, greedy, owner="a"),
        engine.add(prompt * 5, greedy, owner="b"),
        engine.add([3, 4, 5] * 9, drawn, owner="a"),
        engine.add([11, 12], choice, owner="b", priority=1),
        engine.add_text(prompt * 4, owner="c"),
    ]
    if kind == "search":
        requests.append(engine.add_search([5, 6, 7] * 6, Beams(max_tokens=6, beams=2), owner="c"))
    return engine, requests


def outcome(request):
    vector = None if request.pooled is None else request.pooled.vector().tolist()
    answers = None if request.search is None else request.search.answers
    tokens = None if request.search is not None else request.tokens
    logs = (request.logprobs, request.prompt_logprobs)
    return tokens, request.take(), request.finish_reason, logs, vector, answers


def finish(engine):
    while engine.scheduler.busy:
        engine.step()


def check_interrupts(model, tokenizer, kind, tries):
    engine, requests = asked(model, tokenizer, kind)
    with Interrupter(0) as counted:
        finish(engine)
    expected = [outcome(request) for request in requests]
    assert all(request.failure is None for request in requests)
    assert counted.count > 50_000 and engine.scheduler.preemptions
    left = interrupted = 0
    for at in sorted(random.Random(3).sample(range(1, counted.count), tries)):
        engine, requests = asked(model, tokenizer, kind)
        # What the engine does for the first time takes some instructions more.
        with contextlib.suppress(KeyboardInterrupt), Interrupter(at) as interrupter:
            finish(engine)
        interrupted += interrupter.count == at
        engine.scheduler.check()
        finish(engine)
        for request, wanted in zip(requests, expected, strict=True):
            if request.failure is not None:
                left += 1
                assert request.error == _LEFT and request.finish_reason == "abort"
            elif request.finish_reason != "abort":
                assert outcome(request) == wanted, at
        assert engine.stats().free_blocks == engine.stats().total_blocks
        assert not engine.scheduler._queue._present and not engine.scheduler._known
        if kind == "draft":
            pool = engine._speculator._proposer._pool
            assert pool.available == pool.total
    assert interrupted > 0.8 * tries
    return left


@pytest.mark.parametrize("kind", ["lookup", "draft", "search"])
def test_an_interrupt_at_any_moment_changes_no_answer(tiny_decoder, tiny_tokenizer, kind):
    check_interrupts(tiny_decoder(), tiny_tokenizer, kind, TRIES)


def test_an_interrupt_while_a_request_is_aborted_loses_no_block(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    engine, requests = asked(model, tiny_tokenizer, "lookup")
    finish(engine)
    expected = [outcome(request) for request in requests]
    for at in itertools.count(1, 4):
        engine, requests = asked(model, tiny_tokenizer, "lookup")
        for _ in range(3):
            engine.step()
        assert requests[0].blocks
        try:
            with Interrupter(at):
                engine.abort(requests[0])
        except KeyboardInterrupt:
            engine.abort(requests[0])
        else:
            break
        engine.scheduler.check()
        finish(engine)
        assert requests[0].finish_reason == "abort"
        others = [1, 2, 3, 4]
        assert [outcome(requests[i]) for i in others] == [expected[i] for i in others], at
        assert engine.stats().free_blocks == engine.stats().total_blocks
        assert not engine.scheduler._queue._present and not engine.scheduler._known
    assert at > 200


def recovery_interrupted(model, tokenizer, kind, at):
    """An engine that was left half way after a few steps, and again while it was recovering."""
    engine, requests = asked(model, tokenizer, kind)
    for _ in range(4):
        engine.step()
    engine._half_done = True
    engine._settling = requests[0], None
    try:
        with Interrupter(at, skip=""):
            engine._recover()
    except KeyboardInterrupt:
        return engine, requests, True
    return engine, requests, False


@pytest.mark.parametrize("kind", ["lookup", "draft", "search"])
def test_an_interrupt_while_the_engine_recovers_loses_nothing(tiny_decoder, tiny_tokenizer, kind):
    model = tiny_decoder()
    engine, requests = asked(model, tiny_tokenizer, kind)
    finish(engine)
    expected = [outcome(request) for request in requests]
    for at in itertools.count(1, 37):
        engine, requests, interrupted = recovery_interrupted(model, tiny_tokenizer, kind, at)
        finish(engine)
        assert requests[0].error == _LEFT and requests[0].finish_reason == "abort", at
        assert [outcome(request) for request in requests[1:]] == expected[1:], at
        assert engine.stats().free_blocks == engine.stats().total_blocks
        assert not engine.scheduler._queue._present and not engine.scheduler._known
        if not interrupted:
            break
    assert at > 300


class Interrupted:
    """A grammar's matcher whose ``name`` raises what an interrupt would, once, after guesses."""

    def __init__(self, matcher, name):
        self.matcher, self.name, self.guesses, self.done = matcher, name, 0, False

    def __getattr__(self, name):
        def call(*arguments):
            result = getattr(self.matcher, name)(*arguments)
            if name == "try_consume_tokens":
                self.guesses = result
            if name == self.name and self.guesses and not self.done:
                self.done = True
                raise KeyboardInterrupt
            return result

        return call


@pytest.mark.parametrize("name", ["try_consume_tokens", "compute_bitmask", "rollback"])
def test_guesses_that_an_interrupt_leaves_in_a_grammar_are_taken_back(tiny_decoder, tiny_tokenizer, name):
    params = SamplingParams(temperature=0, max_tokens=30, grammar=Grammar("regex", "(ab ?){12}"))

    def answer(interrupt):
        engine = LLM(tiny_decoder(), tiny_tokenizer, cache_bytes=10**6)
        engine._speculator._plan = lambda *asked: 4
        request = engine.add([5, 6, 7, 8], params)
        matcher = request.grammar._matcher = Interrupted(request.grammar._matcher, name)
        matcher.done = not interrupt
        while not request.finished:
            with contextlib.suppress(KeyboardInterrupt):
                engine.step()
        assert matcher.done and engine.stats().accepted
        return request.take(), request.finish_reason

    text, reason = answer(False)
    assert answer(True) == (text, reason) and re.fullmatch("(ab ?){12}", text)


def test_who_ended_in_a_step_that_was_left_is_told_of_by_the_next(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer, cache_bytes=10**6)
    requests = [engine.add([3, 4, 5], SamplingParams(temperature=0, max_tokens=1)) for _ in range(3)]
    remove, left = engine.scheduler.remove, [2]

    def interrupted(sequence):
        remove(sequence)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    engine.scheduler.remove = interrupted
    told = set()
    with pytest.raises(KeyboardInterrupt):
        while True:
            told |= set(engine.step())
    while not set(requests) <= told:
        told |= set(engine.step())
    assert all(request.finished for request in requests)


def test_a_request_that_was_never_queued_is_followed_by_none(tiny_decoder, tiny_tokenizer):
    engine, prompt = LLM(tiny_decoder(), tiny_tokenizer), list(range(100, 170))

    def interrupted(sequence):
        kept.append(sequence)  # as the traceback in an interactive session does
        raise KeyboardInterrupt

    kept, add = [], engine.scheduler.add
    engine.scheduler.add = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.add(prompt, SamplingParams())
    engine.scheduler.add = add
    later = engine.add(prompt, SamplingParams(max_tokens=1))
    engine.step()
    assert later.finished


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["lookup", "draft", "search"])
def test_an_interrupt_at_any_of_many_moments_changes_no_answer(tiny_decoder, tiny_tokenizer, kind):
    tries = 2000
    # Some hit a request while it takes up a token: a tenth of the instructions, and far less of the time.
    assert check_interrupts(tiny_decoder(), tiny_tokenizer, kind, tries) < tries / 10
