"""Beam search in the engine: a reference with full recomputation, and the same bits whatever is around."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

from weft.core.errors import CheckpointError, UsageError
from weft.engine import LLM, Beams, SamplingParams
from weft.engine.encdec import write
from weft.engine.runner import prepare
from weft.engine.search import Search
from weft.engine.weights import for_inference
from weft.models.encdec import EncoderDecoder
from weft.models.encdec_config import EncoderDecoderConfig
from weft.ops.attention import PackedRows
from weft.ops.paged import Pages

SHAPE = EncoderDecoderConfig(
    vocab_size=512, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4
)
SOURCES = [[(7 * i * i + 3 * i + n) % 500 + 2 for i in range(n)] for n in (5, 17, 40, 1, 33)]
HOW = Beams(40, 4, alternatives=4)


def reference(model, ends, prompt, how):
    """(tokens without their end, score, ended), best first."""

    def score(pair):
        return pair[1] / len(pair[0]) ** how.length_penalty

    beams, complete, width = [((), 0.0)], [], how.beams
    for _ in range(how.max_tokens):
        grown = []
        for tokens, total in beams:
            row = torch.tensor([[*prompt, *tokens]])
            context = PackedRows(torch.zeros(row.shape, dtype=torch.int32))
            logs = model.logits(model(row, context))[0, -1].log_softmax(-1)
            grown += [((*tokens, t), total + float(logs[t])) for t in range(len(logs))]
        grown = sorted(grown, key=lambda pair: -pair[1])[: (1 + len(ends)) * width]
        complete += [pair for pair in grown[:width] if pair[0][-1] in ends]
        complete = sorted(complete, key=lambda pair: -score(pair))[:width]
        beams = [pair for pair in grown if pair[0][-1] not in ends][:width]
        if len(complete) == width and score(beams[0]) <= score(complete[-1]):
            beams = []
            break
    best = sorted(complete + beams, key=lambda pair: -score(pair))[:width]
    return [
        (tokens[:-1] if tokens[-1] in ends else tokens, score((tokens, total)), tokens[-1] in ends)
        for tokens, total in best
    ]


@pytest.mark.parametrize(("width", "penalty", "boost"), [(1, 1.0, 1), (3, 1.0, 1), (4, 0.5, 6), (5, 2.0, 6)])
def test_beams_equal_the_reference(tiny_decoder, tiny_tokenizer, width, penalty, boost):
    model = tiny_decoder(tie_word_embeddings=False)
    engine = LLM(model, tiny_tokenizer)
    for end in engine.ends:
        model.output.weight[end] *= boost
    how = Beams(7, width, penalty, alternatives=width)
    prompt = list(range(50, 70))
    expected = reference(model, engine.ends, prompt, how)
    (found,) = engine.search([prompt], how)
    assert [(one.tokens, one.ended) for one in found] == [(tokens, ended) for tokens, _, ended in expected]
    assert [one.score for one in found] == pytest.approx([score for _, score, _ in expected], abs=1e-3)
    if boost > 1:
        assert any(one.ended for one in found)
    assert engine.stats().free_blocks == engine.stats().total_blocks


def test_the_beam_of_width_one_is_greedy(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    ((one,),) = engine.search([[1, 2, 3]], Beams(400, 1))
    (greedy,) = engine.generate([[1, 2, 3]], SamplingParams(temperature=0))
    assert (
        one.tokens == greedy.tokens[: len(one.tokens)] and len(greedy.tokens) - len(one.tokens) == one.ended
    )


def made(dtype=torch.float32) -> EncoderDecoder:
    model = EncoderDecoder(SHAPE)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=noise)
    return prepare(model, torch.device("cpu"), dtype)


@pytest.mark.parametrize("kernels", ["native", "plain"])
def test_answers_are_those_of_the_static_twin(kernels, tiny_tokenizer, monkeypatch):
    if kernels == "plain":
        for place in ("paged", "linear", "geglu"):
            monkeypatch.setattr(f"weft.ops.{place}.serving", lambda name: None)
    model, end = made(), tiny_tokenizer.eos_id
    model.output.weight[end] *= 3
    sources = SOURCES if kernels == "native" else SOURCES[:2]
    expected = write(model, sources, end, end, HOW)
    found = LLM(model, tiny_tokenizer, max_sequences=3, token_budget=100).search(sources, HOW)
    for ours, theirs in zip(found, expected, strict=True):
        assert [(one.tokens, one.ended) for one in ours] == [(one.tokens, one.ended) for one in theirs]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs], rel=1e-4)
    if kernels == "native":
        assert {one.ended for answers in found for one in answers} == {True, False}


@pytest.fixture(scope="module", params=["decoder", "encoder-decoder", "bf16"])
def model(request, tiny_decoder):
    if request.param == "decoder":
        return tiny_decoder(max_position_embeddings=512)
    return made(torch.bfloat16 if request.param == "bf16" else torch.float32)


@pytest.fixture(scope="module")
def alone(model, tiny_tokenizer):
    return [LLM(model, tiny_tokenizer).search([source], HOW)[0] for source in SOURCES]


def test_together_they_are_the_same_to_the_bit(model, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=3, token_budget=60)
    assert engine.search(SOURCES, HOW) == alone
    # Prompts and sources are known now.
    assert engine.search(SOURCES, HOW) == alone and engine.stats().prefix_hits > 0


def test_beside_others_that_come_and_go(model, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=4, token_budget=128)
    seeded = SamplingParams(temperature=1.5, seed=5, max_tokens=9, ignore_eos=True)
    greedy = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    (expected,) = engine.generate([SOURCES[1]], greedy)
    searches, written = [], []
    for source in SOURCES:
        searches.append(engine.add_search(source, HOW))
        engine.add(source, seeded)
        written.append(engine.add(SOURCES[1], greedy))
        engine.step()
        engine.step()
        dropped = engine.add_search([*source, 9], HOW)
        engine.step()
        engine.abort(dropped)
    while engine.scheduler.busy:
        engine.step()
    assert [sequence.search.answers for sequence in searches] == alone
    assert {tuple(sequence.generated) for sequence in written} == {expected.tokens}


def test_who_made_way_comes_to_the_same_end(model, alone, tiny_tokenizer):
    config = model.config
    shape = (
        (config.num_decoder_layers, config.num_heads, config.d_kv)
        if isinstance(model, EncoderDecoder)
        else (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
    )
    memory = 26 * Pages.block_bytes(*shape, model.embedding.weight.dtype)
    engine = LLM(model, tiny_tokenizer, max_sequences=4, cache_bytes=memory)
    assert engine.stats().total_blocks == 26
    assert engine.search(SOURCES, HOW) == alone
    assert engine.scheduler.preemptions > 0
    assert engine.stats().free_blocks == 26


def test_an_int8_cache_is_copied_with_its_scales(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(max_position_embeddings=512), tiny_tokenizer, cache_dtype=torch.int8)
    together = engine.search(SOURCES, HOW)
    # A beam that is written again from its tokens alone has the cache that was copied.
    for source, answers in zip(SOURCES, together, strict=True):
        asked = SamplingParams(temperature=0, max_tokens=0, prompt_logprobs=0)
        for one in answers[:2]:
            (again,) = engine.generate([[*source, *one.tokens]], asked)
            scores = [entry.logprob for entry in again.prompt_logprobs[len(source) :]]
            if not one.ended:
                assert one.score == pytest.approx(sum(scores) / len(scores), rel=1e-5)


def test_blocks_of_a_search_are_shared_and_free_at_once(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(max_position_embeddings=512), tiny_tokenizer)
    free = engine.stats().free_blocks
    sequence = engine.add_search(list(range(50, 114)), HOW)
    while len(sequence.tokens) < 64 + 20:
        engine.step()
    # Four blocks of the prompt are held once; of twenty new tokens a beam holds two blocks at most.
    assert 4 + 2 <= free - engine.stats().free_blocks <= 4 + 2 * 4
    assert all(line.blocks[:4] == sequence.blocks[:4] for line in sequence.beams)
    engine.abort(sequence)
    assert engine.stats().free_blocks == free
    engine.scheduler.check()


def test_wide_searches_wait_for_rows_and_are_not_passed(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer, max_sequences=6, token_budget=16)
    free = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    first = engine.add_search([1, 2], Beams(12, 4))
    engine.step()
    second, behind = engine.add_search([3, 4], Beams(3, 5)), engine.add([5], free)
    while not first.finished:
        engine.step()
        assert sum(item.width for item in engine.scheduler.running) <= engine.scheduler.most_rows == 8
        assert first.finished or engine.scheduler.running == [first]
    while not behind.finished:
        engine.step()
    assert second.finished


def test_a_long_source_waits_for_no_wide_search(tiny_tokenizer):
    model, wide = made(), Beams(40, 12)
    model.output.weight[tiny_tokenizer.eos_id] = 0  # hardly any answer ends by itself
    long, asked = [5, 9] * 48, SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    expected = LLM(model, tiny_tokenizer).search(SOURCES[:4], wide)
    (alone,) = LLM(model, tiny_tokenizer).generate([long], asked)
    engine = LLM(model, tiny_tokenizer, max_sequences=5, token_budget=101)
    searches = [engine.add_search(source, wide) for source in SOURCES[:4]]
    for _ in range(5):
        engine.step()
    # Only 53 places are left of the budget, and the source is the longest that there may be.
    assert sum(len(one.lines) for one in searches) == 48 and engine.scheduler.longest_source == len(long)
    last = engine.add(long, asked)
    for steps in range(3):
        before = [len(one.tokens) for one in searches]
        engine.step()
        assert last.generated_length == steps + 1
        assert [len(one.tokens) for one in searches] == [length + 1 for length in before]
    while engine.scheduler.busy:
        engine.step()
    assert [one.search.answers for one in searches] == expected and tuple(last.generated) == alone.tokens


def test_a_cache_or_step_that_cannot_hold_it_is_told(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer, max_sequences=1, token_budget=8)
    with pytest.raises(UsageError, match="beams = 5 is more than the 4 rows"):
        engine.add_search([1], Beams(5, 5))
    with pytest.raises(UsageError, match=r"4 beams of up to 128 tokens may need 32 blocks .* has 8"):
        engine.add_search([1], Beams(500, 4))
    with pytest.raises(UsageError, match="beams = 0"):
        engine.search([[1]], Beams(3, 0, alternatives=0))
    assert not engine.scheduler.busy
    # Four whole blocks of the prompt are there once, and each beam needs one more: eight in all.
    (answers,) = engine.search([list(range(50, 114))], Beams(16, 4))
    assert answers and engine.stats().free_blocks == 8


def failing(engine, source):
    """A search and three other requests of a source with a token that nobody can read."""
    plain = {"max_tokens": 30, "ignore_eos": True}
    settings = [
        SamplingParams(temperature=0, **plain),
        SamplingParams(seed=3, **plain),
        SamplingParams(temperature=0.5, top_p=0.9, seed=3, frequency_penalty=0.1, logprobs=2, **plain),
    ]
    if not engine.reads_source:
        settings.append(SamplingParams(prompt_logprobs=1, **plain))
    return [engine.add_search(source, HOW), *(engine.add(source, params) for params in settings)]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "bf16"])
def test_scores_that_are_not_numbers_end_only_what_has_them(kind, tiny_decoder, tiny_tokenizer):
    if kind == "decoder":
        model = tiny_decoder(max_position_embeddings=512, tie_word_embeddings=False)
    else:
        model = made(torch.bfloat16 if kind == "bf16" else torch.float32)
    damaged = 510
    model.embedding.weight.data[damaged] = float("nan")
    model.output.weight.data[damaged] = 0
    alone = [LLM(model, tiny_tokenizer).search([source], HOW)[0] for source in SOURCES]
    written = SamplingParams(temperature=1.5, seed=5, max_tokens=30, ignore_eos=True)
    (expected,) = LLM(model, tiny_tokenizer).generate([SOURCES[1]], written)

    engine = LLM(model, tiny_tokenizer, max_sequences=10, token_budget=128)
    for _ in range(2):
        searches, others, failed = [], [], []
        for source in SOURCES:
            searches.append(engine.add_search(source, HOW))
            engine.step()
            # The second time what is left in their blocks is NaN.
            failed += failing(engine, [*SOURCES[2], damaged, *source])
            others.append(engine.add(SOURCES[1], written))
            engine.step()
        while engine.scheduler.busy:
            engine.step()
        assert [one.search.answers for one in searches] == alone
        assert {tuple(one.generated) for one in others} == {expected.tokens}
        for one in failed:
            assert one.finish_reason == "abort" and "NaN" in one.error
            assert isinstance(one.failure, CheckpointError) and not one.generated
        assert engine.stats().free_blocks == engine.stats().total_blocks
    with pytest.raises(CheckpointError, match="NaN"):
        engine.search([SOURCES[0], [damaged]], HOW)
    assert not engine.scheduler.busy


def test_a_search_that_fails_by_itself_ends_alone(model, alone, tiny_tokenizer, monkeypatch):
    engine = LLM(model, tiny_tokenizer, max_sequences=3)
    good, bad = engine.add_search(SOURCES[0], HOW), engine.add_search(SOURCES[1], HOW)
    for _ in range(3):
        engine.step()
    monkeypatch.setattr(bad.search, "take", lambda *_: [][1])
    assert set(engine.step()) == {good, bad}
    assert bad.finish_reason == "abort" and isinstance(bad.failure, IndexError)
    assert bad.error == "The engine failed on this request: IndexError('list index out of range')."
    while not good.finished:
        engine.step()
    assert good.search.answers == alone[0] and good.failure is good.error is None
    assert engine.stats().free_blocks == engine.stats().total_blocks


@pytest.mark.parametrize("place", ["advance", "fork", "observe"])
def test_what_was_interrupted_comes_to_the_same_end(tiny_tokenizer, monkeypatch, place):
    model = made()
    # Answers end early too: those that were found in a step that was left are not to be found twice.
    model.output.weight[tiny_tokenizer.eos_id] *= 3

    def asked():
        made = LLM(model, tiny_tokenizer, max_sequences=6)
        greedy = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, logprobs=2)
        return made, made.add(SOURCES[0], greedy), [made.add_search(source, HOW) for source in SOURCES]

    plain, expected, alone = asked()
    while plain.scheduler.busy:
        plain.step()
    engine, written, searches = asked()
    owner = engine._speculator if place == "observe" else engine.scheduler
    usual, calls, interruptions = getattr(owner, place), itertools.count(1), []

    def interrupted(*arguments):
        # In the midst of a step: some searches have gone on already.
        if next(calls) in (2, 9, 24, 51):
            interruptions.append(place)
            raise KeyboardInterrupt
        return usual(*arguments)

    monkeypatch.setattr(owner, place, interrupted)
    while engine.scheduler.busy:
        with contextlib.suppress(KeyboardInterrupt):
            engine.step()
        engine.scheduler.check()
    assert len(interruptions) >= 3
    assert [one.search.answers for one in searches] == [one.search.answers for one in alone]
    assert (written.generated, written.logprobs) == (expected.generated, expected.logprobs)
    assert engine.stats().free_blocks == engine.stats().total_blocks


def test_what_ends_is_kept_only_among_the_best():
    search = Search(Beams(3, 2, alternatives=2), [0], 3)
    # An end behind the best two is no answer; the two best that do not end go on.
    search.take(1, [(-1.0, 0, 5), (-1.5, 0, 6), (-2.0, 0, 0), (-3.0, 0, 7)], lambda beam: [])
    assert search.finished == [] and search.ahead == [(-1.0, 0, 5), (-1.5, 0, 6)]
    search.take(2, [(-1.2, 0, 0), (-1.4, 1, 8), (-1.9, 0, 9), (-2.0, 1, 0)], lambda beam: [5 + beam])
    assert [one.tokens for one in search.finished] == [(5,)] and not search.done
    search.take(3, [(-1.5, 0, 4), (-1.6, 1, 0), (-2.2, 1, 3)], lambda beam: [6 - beam, 8 + beam])
    assert search.done
    assert [(one.tokens, one.ended) for one in search.answers] == [((6, 8, 4), False), ((5, 9), True)]


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_what_a_failed_prompt_has_computed_spoils_nobody(weights, tiny_decoder, tiny_tokenizer):
    """Whole blocks before the damage, in the same chunk, are found by others and are sound."""
    model = tiny_decoder(tie_word_embeddings=False, num_key_value_heads=4, num_attention_heads=4)
    model.embedding.weight.data[510] = float("nan")
    model = for_inference(model, torch.device("cpu"), weights)
    start, params = list(range(40, 56)), SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    (expected,) = LLM(model, tiny_tokenizer).generate([[*start, 7, 8]], params)
    engine = LLM(model, tiny_tokenizer, token_budget=30)
    damaged = engine.add([*start, 510, *range(60, 100)], params, owner="a")
    while not damaged.finished:
        engine.step()
    assert isinstance(damaged.failure, CheckpointError)
    sound = engine.add([*start, 7, 8], params, owner="a")
    while not sound.finished:
        engine.step()
    assert sound.failure is None and tuple(sound.generated) == expected.tokens
