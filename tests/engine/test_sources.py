"""Encoder-decoders in the engine: the answers of the static twin, and the same bits whatever happens around.

Sources are read whole within the budget, what is kept of them is counted, and nobody waits for a long answer.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from weft.core.errors import UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.encdec import write
from weft.engine.params import Grammar
from weft.engine.runner import prepare
from weft.engine.sampler import change
from weft.engine.scheduler import Work
from weft.engine.search import Beams
from weft.models.encdec import EncoderDecoder, Pairs
from weft.models.encdec_config import EncoderDecoderConfig
from weft.ops.paged import Pages

SHAPE = EncoderDecoderConfig(
    vocab_size=512,
    d_model=32,
    d_kv=8,
    d_ff=72,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=4,
    relative_attention_max_distance=20,
)
SOURCES = [[(7 * i * i + 3 * i + n) % 500 + 2 for i in range(n)] for n in (5, 17, 40, 1, 33, 16, 90)]
LONGEST = SOURCES[-1]
FREE = {"max_tokens": 20, "ignore_eos": True, "logprobs": 4}
GREEDY = SamplingParams(temperature=0, **FREE)
SEEDED = SamplingParams(temperature=1.5, top_p=0.98, seed=11, **FREE)


def made(dtype=torch.float32, **changes) -> EncoderDecoder:
    model = EncoderDecoder(dataclasses.replace(SHAPE, **changes))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3, generator=noise)
    return prepare(model, torch.device("cpu"), dtype)


def block_bytes(model) -> int:
    config, dtype = model.config, model.embedding.weight.dtype
    return Pages.block_bytes(config.num_decoder_layers, config.num_heads, config.d_kv, dtype)


def run(engine: LLM, *sequences) -> None:
    while not all(sequence.finished for sequence in sequences):
        engine.step()


def finish(engine: LLM, source, params):
    sequence = engine.add(source, params)
    run(engine, sequence)
    return sequence.generated, sequence.logprobs


def watched(engine: LLM) -> list[list[Work]]:
    """The work of every step to come."""
    seen: list[list[Work]] = []
    schedule = engine.scheduler.schedule
    engine.scheduler.schedule = lambda: seen.append(schedule()) or seen[-1]
    return seen


@pytest.fixture(scope="module")
def plain_model() -> EncoderDecoder:
    return made()


@pytest.fixture
def engine(plain_model, tiny_tokenizer) -> LLM:
    return LLM(plain_model, tiny_tokenizer, max_sequences=4, token_budget=100)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kernels", ["native", "plain"])
def test_answers_are_those_of_the_static_twin(tied, kernels, tiny_tokenizer, monkeypatch):
    if kernels == "plain":
        for place in ("paged", "linear", "geglu"):
            monkeypatch.setattr(f"weft.ops.{place}.serving", lambda name: None)
    # Sharper scores end some of the answers.
    model, end, sources = (
        made(tie_word_embeddings=tied),
        tiny_tokenizer.eos_id,
        SOURCES[: 7 if kernels == "native" else 3],
    )
    model.output.weight[end] *= 3
    expected = write(model, sources, end, end, Beams(30, 1))
    engine = LLM(model, tiny_tokenizer, max_sequences=4, token_budget=100)
    answers = engine.generate(sources, SamplingParams(temperature=0, max_tokens=30, logprobs=0))
    for (twin,), answer in zip(expected, answers, strict=True):
        ended = answer.finish_reason == "stop"
        assert answer.tokens == (*twin.tokens, *([end] if ended else ())) and ended == twin.ended
    if kernels == "native":
        assert {answer.finish_reason for answer in answers} == {"stop", "length"}


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def model(request):
    return made(request.param)


@pytest.fixture(scope="module", params=[GREEDY, SEEDED], ids=["greedy", "seeded"])
def params(request):
    return request.param


@pytest.fixture(scope="module")
def alone(model, params, tiny_tokenizer):
    return finish(LLM(model, tiny_tokenizer), LONGEST, params)


@pytest.mark.parametrize("budget", [97, 512])
def test_batched_at_any_places_and_with_a_source_that_is_known(model, params, alone, tiny_tokenizer, budget):
    engine = LLM(model, tiny_tokenizer, max_sequences=6, token_budget=budget)
    for source in SOURCES[:-1]:
        engine.add(source, SEEDED)
        engine.step()
    assert finish(engine, LONGEST, params) == alone
    assert finish(engine, LONGEST, params) == alone
    assert engine.stats().prefix_hits == len(LONGEST)


@pytest.mark.parametrize("found", [True, False], ids=["source found", "source read again"])
def test_after_preemption(model, params, alone, tiny_tokenizer, found):
    # Guesses take blocks as they pay, which the clock decides: others would be preempted at other times.
    engine = LLM(
        model,
        tiny_tokenizer,
        max_sequences=4,
        token_budget=98,
        cache_bytes=17 * block_bytes(model),
        speculation=False,
    )
    seen = watched(engine)
    long = SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)
    others = [engine.add(source, long) for source in (SOURCES[2], SOURCES[4])]
    answer = engine.add(LONGEST, params)
    for _ in range(25):
        engine.step()
        if engine.scheduler.preemptions:
            break
    assert answer.generated and not answer.encoded and not answer.source_blocks
    if found:
        for other in others:
            engine.abort(other)
    run(engine, *others, answer)
    assert (answer.generated, answer.logprobs) == alone
    assert sum(item.source for work in seen for item in work if item.sequence is answer) == (
        90 if found else 180
    )
    assert engine.stats().free_blocks == engine.stats().total_blocks


def test_on_more_threads(model, params, alone, tiny_tokenizer):
    torch.set_num_threads(2)
    try:
        assert finish(LLM(model, tiny_tokenizer), LONGEST, params) == alone
    finally:
        torch.set_num_threads(1)


def test_speculation_changes_no_token(model, params, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, speculation=False)
    assert finish(engine, LONGEST, params) == alone


def test_a_long_answer_holds_up_no_short_one(engine):
    long = engine.add(LONGEST, SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
    for _ in range(5):
        engine.step()
    short = engine.add(SOURCES[0], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
    for _ in range(3):
        assert long in engine.step()
    assert short.finished and not long.finished
    assert len(engine.scheduler.running) == 1


def test_sources_keep_to_the_budget_and_are_read_once(engine):
    seen = watched(engine)
    run(engine, *(engine.add(source, GREEDY) for source in SOURCES))
    assert max(sum(item.cost for item in work) for work in seen) <= 100
    assert sum(item.source for work in seen for item in work) == sum(map(len, SOURCES))
    # Four run at once; those whose sources fit into the first step got a token in it.
    assert [(item.source, item.tokens) for item in seen[0]] == [(5, 1), (17, 1), (40, 1), (1, 1)]


def test_an_abort_frees_everything_at_once(engine):
    sequences = [engine.add(source, GREEDY) for source in SOURCES]
    engine.step()
    engine.step()
    assert engine.stats().free_blocks < engine.stats().total_blocks
    for sequence in sequences:
        engine.abort(sequence)
    assert engine.stats().free_blocks == engine.stats().total_blocks
    assert not engine.scheduler.busy and engine.step() == []
    engine.scheduler.check()


def test_a_cache_for_one_serves_all(plain_model, tiny_tokenizer):
    """Admission counts sources: with room for hardly one request, all are answered, and as ever."""
    sources, limit = SOURCES, SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    expected = LLM(plain_model, tiny_tokenizer).generate(sources, limit)
    small = LLM(plain_model, tiny_tokenizer, cache_bytes=8 * block_bytes(plain_model))
    assert small.context == 128
    assert small.generate(sources, limit) == expected
    # An answer ends where the cache does: 96 places are the source's, and the first token is no answer.
    (last,) = small.generate([LONGEST], SamplingParams(temperature=0, ignore_eos=True))
    assert len(last.tokens) == 31 and last.finish_reason == "length"


def test_samples_read_their_source_once(engine):
    samples = engine.add_samples(LONGEST, SEEDED, 3)
    run(engine, *samples)
    assert engine.stats().prefix_hits == 2 * len(LONGEST)
    alone = [finish(engine, LONGEST, SEEDED.sample(n)) for n in range(3)]
    assert [(one.generated, one.logprobs) for one in samples] == alone


def test_owners_do_not_find_each_others_sources(engine):
    for owner in ("a", "b", "a"):
        run(engine, engine.add(LONGEST, GREEDY, owner=owner))
    assert engine.stats().prefix_hits == len(LONGEST)


def test_settings_work_as_for_decoders(engine, tiny_tokenizer):
    (free,) = engine.generate([SOURCES[1]], GREEDY)
    stop = free.text[5:8]
    (stopped,) = engine.generate([SOURCES[1]], dataclasses.replace(GREEDY, stop=(stop,)))
    assert stopped.text == free.text[: free.text.index(stop)] and stopped.finish_reason == "stop"
    biased = dataclasses.replace(GREEDY, logit_bias={7: 500.0})
    assert set(engine.generate([SOURCES[1]], biased)[0].tokens) == {7}
    digits = SamplingParams(temperature=0, grammar=Grammar("regex", "[0-9]{4}"), max_tokens=20)
    assert engine.generate([SOURCES[1]], digits)[0].text.isdigit()
    ended = SamplingParams(temperature=0, logit_bias={tiny_tokenizer.eos_id: 500.0})
    assert engine.generate(["a text"], ended)[0].tokens == (tiny_tokenizer.eos_id,)


def test_the_token_an_answer_begins_with_was_said_by_nobody(engine, tiny_tokenizer):
    """It is the one that ends it, so a penalty on it would let no answer end."""
    ends = SamplingParams(temperature=0, max_tokens=8, logit_bias={tiny_tokenizer.eos_id: 500.0})
    penalised = dataclasses.replace(ends, repetition_penalty=100.0)
    scores = torch.zeros(512).index_fill_(0, torch.tensor([7, tiny_tokenizer.eos_id]), 1.0)
    sequence = engine.add(SOURCES[0], penalised)
    assert change(scores, sequence)[[7, tiny_tokenizer.eos_id]].tolist() == [1.0, 501.0]
    assert change(scores, sequence, drafts=(7,))[7] == pytest.approx(0.01)


def test_logprobs_are_the_models_own(engine, plain_model, tiny_tokenizer):
    generated, found = finish(engine, SOURCES[2], GREEDY)
    source = torch.tensor([SOURCES[2]])
    tokens = torch.tensor([[tiny_tokenizer.eos_id, *generated[:-1]]])
    zeros = torch.zeros_like
    with torch.no_grad():
        hidden = plain_model(Pairs(source, zeros(source), tokens, zeros(tokens), zeros(tokens)))
        logs = plain_model.logits(hidden)[0].log_softmax(-1)
    for row, token, entry in zip(logs, generated, found, strict=True):
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert [token for token, _ in entry.top] == row.topk(4).indices.tolist()


def test_what_cannot_be_is_refused(engine, plain_model, tiny_tokenizer, tiny_decoder):
    with pytest.raises(UsageError, match="source has 97 tokens, but a step reads 96 at most"):
        engine.add([5] * 97, GREEDY)
    with pytest.raises(UsageError, match="has no tokens"):
        engine.add([], GREEDY)
    with pytest.raises(UsageError, match="source has no probabilities"):
        engine.add([5], SamplingParams(prompt_logprobs=0))
    for wrong in ({"draft": tiny_decoder()}, {"adapted": tiny_decoder()}, {"cache_dtype": torch.int8}):
        with pytest.raises(UsageError, match="are for decoders"):
            LLM(plain_model, tiny_tokenizer, **wrong)
    small = LLM(plain_model, tiny_tokenizer, cache_bytes=2 * block_bytes(plain_model))
    with pytest.raises(UsageError, match="The prompt has 17 tokens, but the context holds 32"):
        small.add([5] * 17, GREEDY)
