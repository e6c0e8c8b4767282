"""The vector of a text comes out of the same steps as everything else, and is the same in any company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from weft.core.errors import UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.blocks import BLOCK
from weft.engine.pooled import Pooled
from weft.models import Decoder
from weft.ops.attention import PackedRows
from weft.tokenizer import Tokenizer

Make = Callable[..., Decoder]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture
def texts() -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, 500, length).tolist() for length in (1, 7, 60, 100, 33)]


@pytest.fixture
def engine(tiny_decoder: Make, tiny_tokenizer: Tokenizer) -> Callable[..., LLM]:
    return lambda **options: LLM(tiny_decoder(), tiny_tokenizer, **options)


@torch.inference_mode()
def plain(model: Any, tokens: list[int]) -> torch.Tensor:
    rows = PackedRows(torch.zeros((1, len(tokens)), dtype=torch.int32), None)
    hidden: torch.Tensor = model(torch.tensor([tokens]), rows)[0].double().mean(0)
    return torch.nn.functional.normalize(hidden, dim=0).float()


def test_it_is_the_mean_of_the_last_hidden_states(engine: Callable[..., LLM], texts: list[list[int]]) -> None:
    llm = engine()
    for tokens, found in zip(texts, llm.embed(texts), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), plain(llm.runner.model, tokens))
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_it_is_the_same_to_the_bit_in_any_company(engine: Callable[..., LLM], texts: list[list[int]]) -> None:
    alone = [engine().embed([tokens])[0] for tokens in texts]
    together = engine().embed(texts)
    chunked = engine(token_budget=9, max_sequences=3).embed(texts)
    beside = engine(token_budget=24)
    answers = [beside.add(tokens[:40], GREEDY) for tokens in texts]
    found = beside.embed(texts)
    for n, vector in enumerate(alone):
        for other in (together[n], chunked[n], found[n]):
            np.testing.assert_array_equal(other, vector)
    while not all(answer.finished for answer in answers):
        beside.step()
    expected = [engine().generate([tokens[:40]], GREEDY)[0].tokens for tokens in texts]
    assert [answer.generated for answer in answers] == [list(tokens) for tokens in expected]


def test_what_others_have_cached_is_not_taken_for_read(
    engine: Callable[..., LLM], texts: list[list[int]]
) -> None:
    llm = engine()
    fresh = llm.embed([texts[3]])[0]
    llm.generate([texts[3]], GREEDY)
    before = llm.stats()
    np.testing.assert_array_equal(llm.embed([texts[3]])[0], fresh)
    assert llm.stats().prefix_hits == before.prefix_hits
    assert llm.stats().prefix_queries == before.prefix_queries
    # The other way round its blocks are found.
    other = engine()
    other.embed([texts[3]])
    other.generate([texts[3]], GREEDY)
    assert other.stats().prefix_hits == (len(texts[3]) - 1) // BLOCK * BLOCK > 0


def test_it_survives_a_preemption(engine: Callable[..., LLM], texts: list[list[int]]) -> None:
    alone = engine().embed([texts[3]])[0]
    # Three answers of a higher rank grow, and take the blocks of a text of which two tokens are read a step.
    llm = engine(cache_bytes=100_000, token_budget=5, max_sequences=4, speculation=False)
    growing = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
    answers = [llm.add(tokens[:15], growing, priority=1) for tokens in texts[2:]]
    while llm.scheduler.waiting or any(answer.uncached > 1 for answer in answers):
        llm.step()
    text = llm.add_text(texts[3])
    while not text.finished:
        llm.step()
    assert llm.scheduler.preemptions >= 1 and text.pooled is not None
    np.testing.assert_array_equal(text.pooled.vector(), alone)
    for answer in answers:
        llm.abort(answer)
    llm.scheduler.check()


def test_a_long_text_holds_nobody_up(engine: Callable[..., LLM], texts: list[list[int]]) -> None:
    llm = engine(token_budget=16, max_sequences=4, speculation=False)
    answer = llm.add(texts[1], GREEDY)
    llm.step()
    text, before = llm.add_text(texts[3]), len(answer.tokens)
    steps = 0
    while not text.finished:
        llm.step()
        steps += 1
        assert len(answer.tokens) == min(before + steps, len(texts[1]) + 12)
    assert steps >= 100 // 16


def test_no_slot_is_needed_and_no_answer_waited_for(
    engine: Callable[..., LLM], texts: list[list[int]]
) -> None:
    llm = engine(max_sequences=2, token_budget=8)
    answers = [llm.add(tokens[:5], GREEDY, owner="a") for tokens in texts[1:]]
    llm.step()
    short, many = llm.add_text(texts[0], owner="a"), [llm.add_text(texts[1], owner="b") for _ in range(5)]
    llm.step()
    assert short.finished
    for _ in range(2 * 5 * len(texts[1])):
        assert sum(s.pooled is not None for s in llm.scheduler.running) <= 2
        assert sum(s.pooled is None for s in llm.scheduler.running) <= 2
        llm.step()
    assert all(text.finished for text in many)
    while not all(answer.finished for answer in answers):
        llm.step()
    assert llm.stats().prefix_queries == 5 * len(answers)


def test_one_that_is_aborted_leaves_nothing(engine: Callable[..., LLM], texts: list[list[int]]) -> None:
    llm = engine(token_budget=8, max_sequences=4)
    text = llm.add_text(texts[3])
    llm.step()
    llm.abort(text)
    assert text.finish_reason == "abort" and not llm.scheduler.busy
    llm.scheduler.check()


def test_what_cannot_be_read_is_refused(engine: Callable[..., LLM]) -> None:
    llm = engine()
    for prompt, sentence in (([], "no tokens"), ([10**6], "holds token id"), ([5] * 200, "context holds")):
        with pytest.raises(UsageError, match=sentence):
            llm.embed([prompt])
    assert len(llm.embed([[5] * 128])) == 1


def test_states_in_pieces_add_up_to_the_same_bits() -> None:
    states = np.random.default_rng(1).normal(size=(301, 17)).astype(np.float32) * 1e3
    whole = Pooled()
    whole.add(states)
    for cuts in ([1, 2, 3], [150], [300], list(range(1, 301))):
        pieces = Pooled()
        for piece in np.split(states, cuts):
            pieces.add(piece)
        assert pieces.count == 301
        np.testing.assert_array_equal(pieces.vector(), whole.vector())
