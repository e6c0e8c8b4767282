"""Log probabilities of prompts: right, and the same bits alone, batched, in chunks, after preemption."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.core.errors import UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.runner import prepare
from weft.engine.weights import for_inference
from weft.eval.decoder_model import DecoderModel
from weft.eval.protocol import LikelihoodRequest
from weft.ops.attention import PackedRows
from weft.ops.paged import Pages

PROMPT = [(7 * i * i + 3 * i) % 500 for i in range(83)]
NEIGHBOURS = ([5], [7, 8, 9], list(range(40, 75)), PROMPT[:50])
ASKED = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=3, prompt_logprobs=5)
ONLY = replace(ASKED, max_tokens=0)
OTHERS = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
CPU = torch.device("cpu")
FORMS = ("float32", "bfloat16", "packed int8")


def finish(engine: LLM, params: SamplingParams = ASKED, prompt=PROMPT):
    """What a request got, the engine having been run until it is done."""
    sequence = engine.add(prompt, params)
    while not sequence.finished:
        engine.step()
    assert len(sequence.prompt_logprobs) == len(prompt) and sequence.prompt_logprobs[0] is None
    return sequence.generated, sequence.logprobs, sequence.prompt_logprobs


@pytest.fixture(scope="module", params=FORMS)
def model(request, tiny_decoder):
    if request.param.startswith("packed"):
        return for_inference(tiny_decoder(), CPU, request.param.split()[1])
    return prepare(tiny_decoder(), CPU, getattr(torch, request.param))


@pytest.fixture(scope="module")
def alone(model, tiny_tokenizer):
    return finish(LLM(model, tiny_tokenizer))


def test_they_are_those_of_one_pass_over_the_prompt(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    (answer,) = LLM(model, tiny_tokenizer, token_budget=20).generate([PROMPT], ONLY)
    tokens = torch.tensor([PROMPT])
    rows = PackedRows(torch.zeros_like(tokens, dtype=torch.int32))
    logs = model.logits(model(tokens, rows)).log_softmax(-1)[0]
    assert answer.prompt_logprobs is not None and answer.prompt_logprobs[0] is None
    for place, entry in enumerate(answer.prompt_logprobs[1:]):
        assert entry is not None and entry.token == PROMPT[place + 1]
        assert entry.logprob == pytest.approx(float(logs[place, entry.token]), abs=1e-5)
        values, likeliest = logs[place].topk(5)
        assert [token for token, _ in entry.top] == likeliest.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-5)
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", (), "length")


def test_they_sum_to_the_likelihood_of_the_evaluation(tiny_decoder, tiny_tokenizer):
    model, start, end = tiny_decoder(), "The quick brown", " fox jumps"
    expected = DecoderModel(model, tiny_tokenizer, lambda _: []).loglikelihood(
        [LikelihoodRequest(start, end)]
    )[0]
    tokens = [tiny_tokenizer.eos_id, *tiny_tokenizer.encode(start + end)]
    (answer,) = LLM(model, tiny_tokenizer).generate([tokens], ONLY)
    entries = (answer.prompt_logprobs or ())[1 + len(tiny_tokenizer.encode(start)) :]
    assert sum(entry.logprob for entry in entries if entry) == pytest.approx(
        expected.log_probability, abs=1e-5
    )


def test_they_are_those_of_generation(model, tiny_tokenizer):
    """Fed back, an answer's tokens have the very probabilities they were drawn with."""
    drawn, logprobs, _ = finish(LLM(model, tiny_tokenizer), replace(ASKED, max_tokens=20))
    _, _, again = finish(LLM(model, tiny_tokenizer), replace(ONLY, prompt_logprobs=3), [*PROMPT, *drawn])
    assert again[len(PROMPT) :] == logprobs


def test_batched(model, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=8)
    for neighbour in NEIGHBOURS:
        engine.add(neighbour, OTHERS)
    engine.step()
    assert finish(engine) == alone


@pytest.mark.parametrize("budget", [2, 7, 16, 33])
def test_in_chunks_beside_others(model, alone, tiny_tokenizer, budget):
    engine = LLM(model, tiny_tokenizer, max_sequences=5, token_budget=budget)
    for neighbour in NEIGHBOURS:
        engine.add(neighbour, replace(OTHERS, prompt_logprobs=1))
    assert finish(engine) == alone
    assert finish(LLM(model, tiny_tokenizer, max_sequences=1, token_budget=budget)) == alone


def test_cached_prefixes_are_computed_again_and_stay_for_others(model, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=4)
    reader = engine.add(PROMPT, replace(OTHERS, logprobs=3))
    for _ in range(3):
        engine.step()
    assert finish(engine) == alone
    assert engine.stats().prefix_hits == 0
    while not reader.finished:
        engine.step()
    assert reader.logprobs[:4] == alone[1]
    finish(engine, replace(ASKED, prompt_logprobs=None), PROMPT[:1])
    plain = engine.add(PROMPT, replace(ASKED, prompt_logprobs=None))
    while not plain.finished:
        engine.step()
    assert (plain.generated, plain.logprobs) == alone[:2] and engine.stats().prefix_hits == 80


def test_after_preemption(model, alone, tiny_tokenizer):
    config = model.config
    block = Pages.block_bytes(
        config.num_hidden_layers, config.num_key_value_heads, config.head_dim, model.embedding.weight.dtype
    )
    # Guesses are made while they are measured to pay: how fast memory fills would depend on the machine.
    engine = LLM(
        model,
        tiny_tokenizer,
        max_sequences=3,
        cache_bytes=11 * block,
        token_budget=9,
        speculation=False,
    )
    engine.add([9] * 40, replace(OTHERS, max_tokens=80))
    engine.add([8] * 30, replace(OTHERS, max_tokens=60))
    assert finish(engine) == alone
    while engine.scheduler.busy:
        engine.step()
    assert engine.scheduler.preemptions


def test_preempted_in_the_middle_of_its_prompt(model, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=3, token_budget=10)
    sequence = engine.add(PROMPT, ASKED)
    for _ in range(4):
        engine.step()
    assert 1 < len(sequence.prompt_logprobs) < len(PROMPT)
    engine.scheduler._preempt(sequence)
    while not sequence.finished:
        engine.step()
    assert (sequence.generated, sequence.logprobs, sequence.prompt_logprobs) == alone
    assert engine.stats().prefix_hits > 0


def test_samples_share_the_scores_of_the_first(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer, max_sequences=4)
    samples = engine.add_samples(PROMPT, replace(ASKED, temperature=1.5, seed=3), 3)
    while engine.scheduler.busy:
        engine.step()
    assert len({id(sample.prompt_logprobs) for sample in samples}) == 1
    assert len(samples[0].prompt_logprobs) == len(PROMPT)
    assert engine.stats().prefix_hits == 2 * 80
    fewer = engine.add(PROMPT, replace(ASKED, prompt_logprobs=1))
    while not fewer.finished:
        engine.step()
    assert all(entry is None or len(entry.top) == 1 for entry in fewer.prompt_logprobs)


def test_a_sample_whose_leader_is_aborted_scores_the_prompt_itself(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer, token_budget=20)
    first, second = engine.add_samples(PROMPT, ASKED, 2)
    engine.step()
    engine.abort(first)
    while not second.finished:
        engine.step()
    assert len(second.prompt_logprobs) == len(PROMPT)


def test_no_more_than_a_few_rows_of_scores_at_once(tiny_decoder, tiny_tokenizer, monkeypatch):
    model = tiny_decoder()
    rows, logits = [], model.logits

    def counted(hidden):
        rows.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(model, "logits", counted)
    finish(LLM(model, tiny_tokenizer))
    assert max(rows) <= 32 and sum(rows) == len(PROMPT) - 1 + 4


def test_one_token_and_a_prompt_that_fills_the_context(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    assert finish(engine, ONLY, [5]) == ([], [], [None])
    full = [(i * i) % 500 for i in range(128)]
    assert len(finish(engine, ONLY, full)[2]) == 128
    with pytest.raises(UsageError, match="at least one must be left"):
        engine.add(full, ASKED)
    with pytest.raises(UsageError, match="holds 128; shorten"):
        engine.add([*full, 1], ONLY)


def test_with_a_draft_model(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    engine = LLM(model, tiny_tokenizer, draft=tiny_decoder(seed=1))
    assert finish(engine) == finish(LLM(model, tiny_tokenizer))
    assert finish(engine, ONLY, [5]) == ([], [], [None])


def test_tokens_that_cannot_be_drawn_have_no_probability(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(vocab_size=520), tiny_tokenizer)
    entry = finish(engine, ONLY, [5, 515, 6])[2][1]
    assert entry is not None and entry.logprob == float("-inf") and max(t for t, _ in entry.top) < 512


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"prompt_logprobs": 65}, {"prompt_logprobs": -1}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingParams(**wrong)
