"""Speculation changes no token, guesses come from where they should, the controller follows the clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from weft.core.errors import CheckpointError, InternalError, UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.blocks import BlockPool
from weft.engine.draft import DraftModel
from weft.engine.early_exit import early_exit
from weft.engine.fused import FusedDecoder
from weft.engine.params import SamplingParams as Params
from weft.engine.runner import prepare
from weft.engine.scheduler import Work
from weft.engine.search import Beams, Search
from weft.engine.sequence import Beam, Sequence
from weft.engine.speculative import _MOST_REST as MOST_REST
from weft.engine.speculative import MOST, PromptLookup, Speculator
from weft.engine.text import TextStream
from weft.engine.weights import for_inference
from weft.ops.paged import Pages

REPEATING = [11, 12, 13, 14, 15, 16] * 6
SETTINGS = {
    "greedy": SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=4),
    "seeded": SamplingParams(temperature=0.6, top_p=0.95, max_tokens=40, ignore_eos=True, logprobs=4, seed=3),
    "penalised": SamplingParams(
        temperature=0.3, repetition_penalty=1.1, frequency_penalty=0.3, max_tokens=40, logprobs=2, seed=5
    ),
    "ending": SamplingParams(temperature=0, max_tokens=40, stop=("e",), min_tokens=6, logprobs=0),
}


def sequence(tokens, limit=10**6, search=None, **settings) -> Sequence:
    return Sequence(tokens, Params(**settings), seed=0, limit=limit, text=TextStream(None), search=search)


def answers(engine, params, prompts=(REPEATING, [7, 8, 9], REPEATING[:20])):
    sequences = [engine.add(prompt, params) for prompt in prompts]
    while not all(s.finished for s in sequences):
        engine.step()
    assert engine.stats().free_blocks == engine.stats().total_blocks
    return [(s.generated, s.logprobs, s.finish_reason, s.take()) for s in sequences]


@pytest.fixture
def always(monkeypatch):
    """Guesses are used whether they pay or not."""
    monkeypatch.setattr(Speculator, "_plan", lambda self, *_: 5)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "plain"])
def test_a_guess_that_is_damaged_ends_nobody(weights, tiny_decoder, tiny_tokenizer, always, monkeypatch):
    """Its value is NaN, and zero times NaN would be NaN for the rows before it."""
    model = tiny_decoder(tie_word_embeddings=False)
    model.embedding.weight.data[510] = float("nan")
    cpu = torch.device("cpu")
    model = prepare(model, cpu, torch.float32) if weights == "plain" else for_inference(model, cpu, weights)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    plain = answers(LLM(model, tiny_tokenizer, speculation=False), params)
    assert all(510 not in tokens for tokens, *_ in plain)
    monkeypatch.setattr(PromptLookup, "_guess", lambda self, sequence, count: (510,) * min(2, count))
    engine = LLM(model, tiny_tokenizer)
    assert answers(engine, params) == plain
    assert engine.stats().proposed > 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    "shape", [{}, {"sliding_window": 9, "qk_norm": False, "architecture": "MistralForCausalLM"}]
)
def test_no_guess_changes_a_bit(tiny_decoder, tiny_tokenizer, always, settings, dtype, shape):
    model = prepare(tiny_decoder(**shape), torch.device("cpu"), dtype)
    params = SETTINGS[settings]
    plain = answers(LLM(model, tiny_tokenizer, speculation=False), params)
    drafts = {
        "lookup": None,
        "other": prepare(tiny_decoder(seed=9), torch.device("cpu"), dtype),
        "same": model,
    }
    for name, draft in drafts.items():
        engine = LLM(model, tiny_tokenizer, draft=draft)
        assert answers(engine, params) == plain
        stats = engine.stats()
        if name == "same":
            assert stats.proposed
            assert stats.accepted == stats.proposed or not params.ignore_eos
        if name == "other":
            assert stats.accepted < stats.proposed


def test_guesses_save_steps(tiny_decoder, tiny_tokenizer, always):
    model = tiny_decoder()
    params = SamplingParams(temperature=0, max_tokens=42, ignore_eos=True)
    engine = LLM(model, tiny_tokenizer, draft=model)
    engine.generate([[1, 2, 3]], params)
    assert engine.stats().steps == 1 + 7  # the prompt draws one; then six at a time, five of them guesses


def test_guesses_within_a_few_blocks_and_little_budget(tiny_decoder, tiny_tokenizer, always):
    model = tiny_decoder()
    params = SETTINGS["seeded"]
    plain = answers(LLM(model, tiny_tokenizer, speculation=False), params)
    small = LLM(model, tiny_tokenizer, max_sequences=3, token_budget=6, cache_bytes=9 * 16 * 2 * 2 * 24 * 4)
    assert small.scheduler.pool.total == 9
    assert answers(small, params) == plain


def test_the_cache_of_a_draft_model_takes_no_more_than_is_free(tiny_decoder, monkeypatch):
    """On what is no processor; there memory is only reserved."""
    given = {"vocabulary": 500, "slots": 4, "context": 128, "largest": 500}
    free = [0]
    monkeypatch.setattr("weft.engine.draft.free_memory", lambda device: free[0])
    model = tiny_decoder().to("meta")
    block = Pages.block_bytes(2, 2, 8, torch.float32)
    for free[0], total in ((5 * block, 5), (0, 1), (10**9, 4 * 9)):
        assert DraftModel(model, **given)._pool.total == total
    free[0] = 0
    assert DraftModel(tiny_decoder(), **given)._pool.total == 4 * 9


def test_a_draft_model_reads_long_prompts_by_and_by(tiny_decoder, tiny_tokenizer, always, monkeypatch):
    """All of them in one step would hold up everybody else for as long."""
    monkeypatch.setattr("weft.engine.draft._READ_ON", 40)
    model = tiny_decoder(max_position_embeddings=512)
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    prompts = [(REPEATING * 20)[:n] for n in (300, 90, 5)]
    plain = LLM(model, tiny_tokenizer, speculation=False).generate(prompts, params)
    engine = LLM(model, tiny_tokenizer, draft=model)
    draft = engine._speculator._proposer
    read: list[int] = []
    run = draft._runner.run
    monkeypatch.setattr(
        draft._runner, "run", lambda work: (read.append(sum(w.tokens for w in work)), run(work))[1]
    )
    assert [a.tokens for a in engine.generate(prompts, params)] == [a.tokens for a in plain]
    # What guesses have been wrong about is read beside that: at most twice as many as are guessed, of each.
    assert 40 <= max(read) <= 40 + 3 * 2 * 16 and sum(read) > 395
    stats = engine.stats()
    assert stats.accepted == stats.proposed > 60 and not draft.reading


@pytest.mark.parametrize("reads", [10, 1000])
def test_a_probe_goes_on_until_prompts_are_read_but_not_for_ever(reads):
    """Else a draft model that is seldom tried would never guess for a long one, or would not rest where
    one comes after another."""
    proposer = Fixed(free=False, cost=10.0)
    speculator = Speculator(proposer)
    tried: list[int] = []
    proposer.propose = lambda sequences, count: (tried.append(step), [(1,) * count])[1]
    one = sequence([0])
    began = lambda steps: next(s for s in steps if s > 50)  # noqa: E731 (what comes before is not known to lose)
    for step in range(200):
        speculator.propose([one])
        speculator.observe([Work(one, 1, one.drafts)], [[2]], 1.0)
        one.drafts = ()
        proposer.reading = bool(tried) and tried[-1] == step and step - began(tried) < reads
    first = began(tried)
    assert tried[tried.index(first) :] == list(range(first, first + min(reads, 64) + 1))


@pytest.mark.parametrize("blocks", [1, 8, 11])
def test_sequences_that_find_no_room_in_the_draft_model_get_no_guesses(
    tiny_decoder, tiny_tokenizer, always, blocks
):
    model = tiny_decoder()
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    prompts = [REPEATING[:n] for n in (5, 20, 33)]
    plain = LLM(model, tiny_tokenizer, speculation=False).generate(prompts, params)
    engine = LLM(model, tiny_tokenizer, draft=early_exit(model, 1))
    draft = engine._speculator._proposer
    draft._pool = BlockPool(blocks)
    assert [a.tokens for a in engine.generate(prompts, params)] == [a.tokens for a in plain]
    assert draft._pool.available == blocks and bool(engine.stats().proposed) == (blocks > 1)


def test_drawn_tokens_keep_their_distribution(tiny_decoder, tiny_tokenizer, always):
    model, draft = tiny_decoder(), tiny_decoder(seed=2)
    counts = []
    for engine in (LLM(model, tiny_tokenizer, speculation=False), LLM(model, tiny_tokenizer, draft=draft)):
        drawn = Counter()
        for block in range(4):
            each = [SamplingParams(max_tokens=3, top_k=4, seed=1000 * block + i) for i in range(100)]
            drawn.update(completion.tokens for completion in engine.generate([[3, 4]] * 100, each))
        counts.append(drawn)
    assert counts[0] == counts[1]


def test_lookup_finds_what_followed_the_longest_match():
    lookup = PromptLookup()
    assert lookup.propose([sequence([1, 2, 3, 4, 9, 2, 3])], 3) == [(4, 9, 2)]
    assert lookup.propose([sequence([5, 2, 3, 6, 1, 2, 3, 7, 5, 2, 3])], 1) == [(6,)]
    assert lookup.propose([sequence([1, 2, 3])], 4) == [()]
    assert lookup.propose([sequence([8, 8, 8])], 5) == [(8,) * 5]
    growing = sequence([1, 2, 3])
    assert lookup.propose([growing], 2) == [()]
    growing.tokens += [4, 1, 2]
    assert lookup.propose([growing], 2) == [(3, 4)]


class Fixed:
    """Guesses that are right with a given share, at a cost."""

    reading = False

    def __init__(self, free: bool, cost: float = 0.0):
        self.free, self.cost = free, cost

    def propose(self, sequences, count):
        return [(1,) * count for _ in sequences]

    def seconds(self, count):
        return self.cost * count

    def forget(self, sequence):
        pass


def simulate(speculator, right, step_seconds, steps, many=1):
    """(tokens per second with speculation, without), ``step_seconds`` being a function of the rows."""
    generator = torch.Generator().manual_seed(1)
    sequences = [sequence([0]) for _ in range(many)]
    clock = tokens = 0.0
    for _ in range(steps):
        speculator.propose(sequences)
        work, drawn = [], []
        for each in sequences:
            new = []
            for _ in each.drafts:
                good = float(torch.rand((), generator=generator)) < right
                new.append(1 if good else 2)
                if not good:
                    break
            else:
                new.append(1 if float(torch.rand((), generator=generator)) < right else 2)
            work.append(Work(each, 1, each.drafts))
            drawn.append(new)
            tokens += len(new)
        seconds = step_seconds(sum(item.rows for item in work))
        clock += seconds + speculator._proposer.seconds(max(len(item.drafts) for item in work))
        speculator.observe(work, drawn, seconds)
        for item in work:
            item.sequence.drafts = ()
    return tokens / clock, many / step_seconds(many)


@pytest.mark.parametrize("many", [1, 8])
@pytest.mark.parametrize("free", [True, False])
def test_speculation_that_does_not_pay_is_off(free, many):
    speculator = Speculator(Fixed(free, 0.0 if free else 0.5))
    fast, plain = simulate(speculator, 0.1, lambda rows: 1 + 0.3 * rows, 3000, many)
    assert fast > 0.97 * plain


@pytest.mark.parametrize("many", [1, 4])
@pytest.mark.parametrize("free", [True, False])
def test_speculation_that_pays_is_on(free, many):
    speculator = Speculator(Fixed(free, 0.0 if free else 0.02))
    fast, plain = simulate(speculator, 0.9, lambda rows: 1 + 0.02 * rows, 1000, many)
    assert fast > 3 * plain


def test_it_notices_when_text_changes():
    speculator = Speculator(Fixed(True))
    cost = lambda rows: 1 + 0.1 * rows  # noqa: E731
    assert simulate(speculator, 0.95, cost, 500)[0] > 2 * simulate(speculator, 0.95, cost, 1)[1]
    bad, plain = simulate(speculator, 0.02, cost, 1500)
    assert bad > 0.97 * plain
    assert simulate(speculator, 0.95, cost, 500)[0] > 2 * plain


def test_fresh_text_is_looked_at_now_and_then_and_new_text_at_once():
    looks = []

    class Counted(Fixed):
        def propose(self, sequences, count):
            looks.append(len(sequences))
            return super().propose(sequences, count)

    speculator = Speculator(Counted(True))
    simulate(speculator, 0.0, lambda rows: 1 + 0.3 * rows, 800)
    assert 800 / (MOST_REST + 1) <= len(looks) <= 200
    fresh = sequence([0, 1], limit=50)
    fresh.tokens.append(1)
    fresh.cached = 2
    before = len(looks)
    speculator.propose([fresh])
    assert len(looks) == before + 1 and speculator._guesses == {fresh: (1,) * MOST}
    # A right guess is followed by a look at the next step.
    speculator.observe([Work(fresh, 1)], [[1]], 1.0)
    fresh.tokens.append(1)
    fresh.cached += 1
    speculator.propose([fresh])
    assert len(looks) == before + 2


def test_text_that_repeats_nothing_costs_a_look_and_no_plan(monkeypatch):
    plans = []
    monkeypatch.setattr(Speculator, "_plan", lambda self, *_: plans.append(1) or 2)
    speculator = Speculator(PromptLookup())
    fresh, copying = sequence(range(2, 40)), sequence([1, 2, 3, 4, 1, 2])
    fresh.cached, copying.cached = 37, 5
    speculator.propose([fresh])
    assert not plans and not fresh.drafts and speculator._watch_in == 1
    speculator.observe([Work(fresh, 1)], [[1]], 1.0)
    speculator.propose([fresh])  # rests
    speculator.propose([fresh, copying])
    assert plans and copying.drafts == (3, 4) and not fresh.drafts
    speculator.observe([Work(fresh, 1), Work(copying, 1, (3, 4))], [[50], [3, 9]], 1.0)
    assert set(speculator._right) == {copying}
    speculator.forget(copying)
    assert not speculator._right and not set(speculator._proposer._indexes) - {fresh}


@pytest.mark.parametrize("free", [True, False])
def test_steps_that_guess_nothing_are_timed(free, monkeypatch):
    """What a step takes without guesses is what they are weighed against."""
    speculator = Speculator(PromptLookup() if free else Fixed(False))
    monkeypatch.setattr(Speculator, "_plan", lambda self, *_: 0)
    fresh = sequence(range(2, 40))
    fresh.cached = 37
    speculator.propose([fresh])
    assert not fresh.drafts
    speculator.observe([Work(fresh, 1)], [[1]], 0.25)
    assert speculator._times.expected(1) == 0.25


def test_hours_of_fresh_text_do_not_make_it_forget_how_long_steps_take():
    speculator = Speculator(Fixed(True))
    cost = lambda rows: 1 + 0.1 * rows  # noqa: E731
    simulate(speculator, 0.95, cost, 300)
    copied = speculator._times._faded
    simulate(speculator, 0.0, cost, 2000)
    assert speculator._times._faded - copied < 100


@pytest.mark.parametrize("many", [1, 8])
def test_a_first_step_that_was_held_up_does_not_make_guesses_pay_for_ever(many):
    """While guesses are used nothing else is timed: what steps without take is believed less and less."""
    speculator = Speculator(Fixed(True))
    cost = lambda rows: 0.2 + rows  # noqa: E731
    speculator._times.observe(many, 5 * cost(many))
    simulate(speculator, 0.6, cost, 3000, many)
    fast, plain = simulate(speculator, 0.6, cost, 1000, many)
    assert fast > 0.97 * plain


def test_no_guess_goes_beyond_the_limit():
    speculator = Speculator(Fixed(True))
    each = sequence([0], limit=3)
    speculator._times.observe(1, 1.0)
    speculator._times.observe(MOST + 1, 1.01)
    speculator.propose([each])
    assert len(each.drafts) == 2


@pytest.mark.parametrize("beams", [0, 14])
def test_the_plan_knows_the_rows_of_searches(beams):
    speculator = Speculator(Fixed(True))
    each = sequence([0])
    running = [each]
    if beams:
        searching = sequence([0], search=Search(Beams(50, beams), (), 50))
        searching.tokens, searching.cached = [0, 1], 1
        searching.split([Beam([0, 1], [], 0.0) for _ in range(beams)])
        running.append(searching)
    # Rows cost nothing up to fifteen, which is what the search takes beside the sequence, and then a lot.
    for rows in range(1, 60):
        speculator._times.observe(rows, 1.0 if rows < 16 else 3.0)
    speculator.propose(running)
    assert bool(each.drafts) == (not beams)


def test_a_draft_of_another_vocabulary_is_refused(tiny_decoder, tiny_tokenizer):
    with pytest.raises(CheckpointError, match="draft model knows 320 tokens"):
        LLM(tiny_decoder(), tiny_tokenizer, draft=tiny_decoder(vocab_size=320))


def test_an_early_exit_shares_weights_and_changes_no_token(tiny_decoder, tiny_tokenizer, always):
    model = tiny_decoder()
    draft = early_exit(model, 1)
    assert draft.blocks[0] is model.blocks[0] and len(draft.blocks) == 1
    params = SETTINGS["greedy"]
    plain = answers(LLM(model, tiny_tokenizer, speculation=False), params)
    assert answers(LLM(model, tiny_tokenizer, draft=draft), params) == plain


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8", "int4"])
def test_no_guess_changes_a_bit_of_what_is_served(tiny_decoder, tiny_tokenizer, always, form, settings):
    """The packed forms, with guesses from the text, of another model, and of their own first layer."""
    cpu, params = torch.device("cpu"), SETTINGS[settings]
    model = for_inference(tiny_decoder(), cpu, form)
    plain = answers(LLM(model, tiny_tokenizer, speculation=False), params)
    for draft in (None, for_inference(tiny_decoder(seed=9), cpu, form), early_exit(model, 1)):
        engine = LLM(model, tiny_tokenizer, draft=draft)
        assert answers(engine, params) == plain
        assert draft is None or engine.stats().proposed


@pytest.mark.parametrize("kind", ["plain", "packed", "fused", "experts"])
def test_an_early_exit_is_the_model_cut_off(tiny_decoder, tiny_tokenizer, kind, monkeypatch):
    """The same tokens as a checkpoint with the first layer, the final norm and the output alone."""
    monkeypatch.setenv("WEFT_COMPILE", "off")
    cpu = torch.device("cpu")
    shape = {"architecture": "Qwen3MoeForCausalLM", "num_experts": 5, "num_experts_per_tok": 2}
    shape |= {"moe_intermediate_size": 24, "mlp_only_layers": ()}
    whole, first = (tiny_decoder(**(shape if kind == "experts" else {})) for _ in range(2))
    del first.blocks[1:]
    first.config = replace(first.config, num_hidden_layers=1)
    form = {
        "plain": lambda model: prepare(model, cpu, torch.float32),
        "packed": lambda model: for_inference(model, cpu, "int8"),
        "fused": lambda model: FusedDecoder(prepare(model, cpu, torch.float32), "float32"),
        "experts": lambda model: for_inference(model, cpu, "float32"),
    }[kind]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=3)
    cut, alone = early_exit(form(whole), 1), form(first)
    assert cut.number_format == alone.number_format
    found, expected = (LLM(model, tiny_tokenizer).generate([[3, 4, 5]], params) for model in (cut, alone))
    assert found == expected


@pytest.mark.parametrize("layers", [0, 2, -1, "1"])
def test_an_early_exit_takes_some_layers_and_leaves_some(tiny_decoder, layers):
    with pytest.raises(UsageError, match="from 1 to 1"):
        early_exit(tiny_decoder(), layers)


def test_a_damaged_draft_guesses_nothing_and_changes_no_token(tiny_decoder, tiny_tokenizer, always):
    model, draft = (prepare(tiny_decoder(), torch.device("cpu"), torch.float32) for _ in range(2))
    draft.embedding.weight.data[7] = float("nan")
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    prompts = [[5, 7, 9], [3, 4, 5]]
    expected = LLM(model, tiny_tokenizer, speculation=False).generate(prompts, params)
    found = LLM(model, tiny_tokenizer, draft=draft).generate(prompts, params)
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]


def test_a_draft_that_lacks_tokens_of_a_prompt_leaves_it_alone(tiny_decoder, tiny_tokenizer):
    model = for_inference(tiny_decoder(vocab_size=1024), torch.device("cpu"), "float32")
    draft = for_inference(tiny_decoder(), torch.device("cpu"), "float32")
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    prompts = [[5, 6, 900, 5, 6], [5, 6, 7, 5, 6]]
    alone = LLM(model, tiny_tokenizer, cache_bytes=10**6, speculation=False).generate(prompts, params)
    engine = LLM(model, tiny_tokenizer, cache_bytes=10**6, draft=draft)
    engine._speculator._plan = lambda *asked: 3
    looked_up = []
    run = engine._speculator._proposer._runner.run
    engine._speculator._proposer._runner.run = lambda work: (
        looked_up.extend(token for item in work for token in item.sequence.tokens) or run(work)
    )
    found = engine.generate(prompts, params)
    assert [one.tokens for one in found] == [one.tokens for one in alone]
    assert looked_up and max(looked_up) < 512


def test_blocks_that_a_draft_model_lost_are_noticed(tiny_decoder, tiny_tokenizer, always):
    model = tiny_decoder()
    engine = LLM(model, tiny_tokenizer, draft=early_exit(model, 1))
    engine._speculator._proposer._pool.take()
    with pytest.raises(InternalError, match="do not balance"):
        engine.generate([[1, 2, 3]], SETTINGS["greedy"])


def test_a_draft_model_has_room_after_requests_made_way(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    memory = 12 * Pages.block_bytes(2, 2, 8, torch.float32)
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    prompts = [[(place * 7 + i * 3) % 300 for i in range(60)] for place in range(8)]
    engine = LLM(model, tiny_tokenizer, max_sequences=2, cache_bytes=memory, draft=early_exit(model, 1))
    engine._speculator._plan = lambda *asked: 4
    requests = []
    for place, prompt in enumerate(prompts):
        requests.append(engine.add(prompt, params, priority=place, owner=str(place)))
        for _ in range(4):
            engine.step()
    while engine.scheduler.busy:
        engine.step()
    assert engine.scheduler.preemptions > 1
    alone = LLM(model, tiny_tokenizer, max_sequences=2, cache_bytes=memory, speculation=False)
    for request, prompt in zip(requests, prompts, strict=True):
        assert list(request.generated) == list(alone.generate([prompt], params)[0].tokens)
