"""What a request may ask of its tokens: penalties, bias, ends, samples, log probabilities."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from weft.core.errors import InternalError, UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.sampler import change
from weft.engine.search import Beams
from weft.engine.sequence import Sequence, best
from weft.engine.text import TextStream
from weft.ops.attention import PackedRows

PROMPT = [5, 9, 12, 40, 41, 42]


@pytest.fixture
def engine(tiny_decoder, tiny_tokenizer):
    return LLM(tiny_decoder(), tiny_tokenizer)


def run(engine, params, prompt=PROMPT):
    sequence = engine.add(prompt, params)
    while not sequence.finished:
        engine.step()
    return sequence


def answered(params, prompt, answer, ends=()):
    sequence = Sequence(prompt, params, seed=0, limit=99, text=TextStream(None), ends=frozenset(ends))
    sequence.tokens += answer
    return sequence


def test_frequency_and_presence_count_new_tokens_alone():
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=2.0)
    scores = torch.zeros(6)
    changed = change(scores, answered(params, [0, 0, 1], [1, 2, 2]), drafts=(2, 3))
    assert changed.tolist() == [0.0, -2.5, -3.5, -2.5, 0.0, 0.0]
    assert scores.tolist() == [0.0] * 6


def test_bias_adds_and_min_tokens_hold_off_the_end():
    params = SamplingParams(logit_bias={3: 4.0, 1: -1.5}, min_tokens=3)
    changed = change(torch.zeros(5), answered(params, [0], [2], ends=[4, 77]), drafts=(2,))
    assert changed.tolist() == [0.0, -1.5, 0.0, 4.0, float("-inf")]
    changed = change(torch.zeros(5), answered(params, [0], [2], ends=[4]), drafts=(2, 2))
    assert changed.tolist() == [0.0, -1.5, 0.0, 4.0, 0.0]


class Counted(TorchDispatchMode):
    """How many operations of PyTorch run within it."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


def test_penalties_and_biases_of_many_tokens_are_a_few_operations():
    """Each step waits for them, so who biases a thousand tokens would hold up everybody."""
    bias = {token: token / 7 for token in range(1000)}
    params = SamplingParams(frequency_penalty=0.3, presence_penalty=0.7, logit_bias=bias)
    said = [token for token in range(500, 1500) for _ in range(token % 3)]
    scores = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    asked = answered(params, [0], said)
    with Counted() as counted:
        changed = change(scores, asked)
    assert counted.operations < 30
    for token, count in Counter(said).items():
        scores[token] -= 0.3 * count + 0.7
    for token, value in bias.items():
        scores[token] += value
    assert torch.equal(changed, scores)


def test_a_great_bias_decides_and_a_frequency_penalty_prevents_loops(engine):
    assert set(run(engine, SamplingParams(temperature=0, max_tokens=5, logit_bias={7: 500.0})).generated) == {
        7
    }
    penalised = run(
        engine, SamplingParams(temperature=0, max_tokens=40, frequency_penalty=50, ignore_eos=True)
    )
    assert len(set(penalised.generated)) == 40


def test_min_tokens_in_an_answer_that_would_end_at_once(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder(tie_word_embeddings=False)
    engine = LLM(model, tiny_tokenizer)
    bias = {tiny_tokenizer.eos_id: 500.0}
    assert run(engine, SamplingParams(temperature=0, logit_bias=bias)).generated == [tiny_tokenizer.eos_id]
    held = run(engine, SamplingParams(temperature=0, logit_bias=bias, min_tokens=4))
    assert len(held.generated) == 5 and held.finish_reason == "stop"


def test_stop_token_ids_end_the_answer_and_have_no_text(engine):
    free = run(engine, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    stop = free.generated[6]
    stopped = run(
        engine, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop_token_ids=(stop,))
    )
    assert stopped.generated == free.generated[: free.generated.index(stop) + 1]
    assert stopped.finish_reason == "stop"
    assert stopped.take() == engine.tokenizer.decode(stopped.generated[:-1])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_are_the_models_own(engine, temperature):
    params = SamplingParams(temperature=temperature, seed=2, max_tokens=6, logprobs=3, logit_bias={8: 2.0})
    sequence = run(engine, params)
    assert [entry.token for entry in sequence.logprobs] == sequence.generated
    for place, entry in enumerate(sequence.logprobs):
        row = torch.tensor([sequence.tokens[: sequence.prompt_length + place]])
        model = engine.runner.model
        context = PackedRows(torch.zeros(row.shape, dtype=torch.int32))
        logs = model.logits(model(row, context))[0, -1].log_softmax(-1)
        assert entry.logprob == pytest.approx(float(logs[entry.token]), abs=1e-3)
        assert [token for token, _ in entry.top] == logs.topk(3).indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(logs.topk(3).values.tolist(), abs=1e-3)


def test_no_logprobs_unless_asked(engine):
    assert run(engine, SamplingParams(max_tokens=3)).logprobs == []
    assert run(engine, SamplingParams(max_tokens=3, logprobs=0)).logprobs[0].top == ()


def test_samples_share_the_prompt_and_the_best_is_the_likeliest(engine):
    prompt = list(range(100, 170))
    params = SamplingParams(max_tokens=8, seed=4, logprobs=0)
    samples = engine.add_samples(prompt, params, 5)
    while not all(sample.finished for sample in samples):
        engine.step()
    assert engine.stats().prefix_hits == 4 * 64
    alone = [run(engine, params.sample(i), prompt).generated for i in range(5)]
    assert [sample.generated for sample in samples] == alone
    chosen = best(samples, 2)
    means = sorted((sample.mean_logprob for sample in samples), reverse=True)
    assert [sample.mean_logprob for sample in chosen] == means[:2]


def test_equal_prompts_that_come_together_are_computed_once(engine):
    prompt = list(range(100, 170))
    first = engine.add(prompt, SamplingParams(max_tokens=30, ignore_eos=True), owner="a")
    rest = [engine.add(prompt, SamplingParams(max_tokens=3), owner=owner) for owner in ("a", "b", "a")]
    while not all(sequence.finished for sequence in rest):
        engine.step()
    assert engine.stats().prefix_hits == 2 * 64
    engine.abort(first)
    late = engine.add(prompt, SamplingParams(max_tokens=1), owner="b")
    engine.step()
    assert late.finished and engine.stats().prefix_hits == 3 * 64


def test_a_step_with_nothing_to_do(engine):
    assert engine.step() == []


def test_stop_strings_across_tokens(engine):
    free = run(engine, SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))
    text = free.take()
    stop = text[5:9]
    stopped = run(engine, SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, stop=(stop,)))
    assert stopped.take() == text[: text.index(stop)] and stopped.finish_reason == "stop"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frequency_penalty": float("nan")}, "frequency_penalty = nan"),
        ({"presence_penalty": 1000}, "presence_penalty = 1000"),
        ({"logit_bias": {-1: 0.0}}, "token id of logit_bias = -1"),
        ({"logit_bias": {1: "x"}}, "logit_bias of token 1"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens = 5"),
        ({"logprobs": 65}, "logprobs = 65"),
        ({"stop_token_ids": (1.5,)}, "stop_token_ids = 1.5"),
    ],
)
def test_settings_without_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        SamplingParams(**settings)


def test_bias_and_stops_outside_the_vocabulary(engine):
    for settings in ({"logit_bias": {512: 1.0}}, {"stop_token_ids": (600,)}):
        with pytest.raises(UsageError, match="no token"):
            engine.add(PROMPT, SamplingParams(**settings))
    with pytest.raises(UsageError, match="number of samples is 0"):
        engine.add_samples(PROMPT, SamplingParams(), 0)


def test_stop_strings_that_spell_a_special_token_mean_it(engine):
    """It has no text that could be compared."""
    token = engine.tokenizer.token_id("<|im_end|>")
    bias = {token: 500.0}
    params = {"temperature": 0, "max_tokens": 9, "logit_bias": bias, "ignore_eos": True}
    assert run(engine, SamplingParams(**params)).finish_reason == "length"
    stopped = run(engine, SamplingParams(**params, stop=("<|im_end|>",)))
    assert stopped.finish_reason == "stop" and stopped.generated == [token]
    word = engine.tokenizer.encode("e")[0]
    params["logit_bias"] = {word: 500.0}
    assert run(engine, SamplingParams(**params, stop=("e",))).take() == ""
    # What is no text at all never comes, and is no error.
    assert run(engine, SamplingParams(**params, stop=("\ud800",))).finish_reason == "length"


def test_penalties_where_a_prompt_holds_tokens_that_nothing_draws(tiny_decoder, tiny_tokenizer):
    """Models whose vocabulary is padded know more ids than their tokenizer."""
    engine = LLM(tiny_decoder(vocab_size=640), tiny_tokenizer)
    params = SamplingParams(temperature=0, max_tokens=5, repetition_penalty=1.3, ignore_eos=True)
    assert len(run(engine, params, [5, 600, 6]).generated) == 5


def test_answers_hold_the_probabilities_that_were_asked_for(engine):
    (answer,) = engine.generate([PROMPT], SamplingParams(max_tokens=4, ignore_eos=True, logprobs=2))
    assert [each.token for each in answer.logprobs] == list(answer.tokens)
    assert all(len(each.top) == 2 for each in answer.logprobs)
    (answer,) = engine.generate([PROMPT], SamplingParams(max_tokens=4))
    assert answer.logprobs is None


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda engine: engine.generate("text", SamplingParams()), "come in a list"),
        (lambda engine: engine.generate([1, 2], SamplingParams()), "come in a list"),
        (lambda engine: engine.embed("text"), "come in a list"),
        (lambda engine: engine.search("text", Beams()), "come in a list"),
        (lambda engine: engine.generate([None], SamplingParams()), "a text or token ids, not None"),
        (lambda engine: engine.generate([[1], [2]], [SamplingParams()]), "2 prompts and 1 settings"),
        (lambda engine: engine.add([1], SamplingParams(), priority="high"), "priority = 'high'"),
        (lambda engine: engine.add_text([1], priority=1.5), "priority = 1.5"),
        (lambda engine: Beams(length_penalty=float("nan")), "length_penalty = nan"),
        (lambda engine: Beams(length_penalty=1e9), "length_penalty = 1000000000.0"),
        (lambda engine: Beams(beams=2.5), "beams = 2.5"),
        (lambda engine: Beams(beams=2, alternatives=3), "alternatives = 3"),
        (lambda engine: SamplingParams(stop_token_ids=5), "stop_token_ids = 5"),
        (lambda engine: SamplingParams(logit_bias=[5]), "logit_bias"),
    ],
)
def test_mistakes_are_sentences(engine, ask, message):
    with pytest.raises(UsageError, match=message):
        ask(engine)
    assert not engine.scheduler.busy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_sequences": 0}, "max_sequences = 0"),
        ({"token_budget": -1}, "token_budget = -1"),
        ({"cache_bytes": 0}, "cache_bytes = 0"),
        ({"cache_dtype": torch.float16}, "A cache of torch.float16"),
        ({"speculation": False}, "without speculation would do nothing"),
    ],
)
def test_engines_without_sense(tiny_decoder, tiny_tokenizer, settings, message):
    model = tiny_decoder()
    draft = model if "speculation" in settings else None
    with pytest.raises(UsageError, match=message):
        LLM(model, tiny_tokenizer, draft=draft, **settings)


def test_lost_blocks_are_noticed_when_an_abort_leaves_nothing_to_do(engine):
    sequence = engine.add(PROMPT, SamplingParams(ignore_eos=True))
    engine.step()
    assert not sequence.finished
    engine.scheduler.pool.take()
    with pytest.raises(InternalError, match="do not balance"):
        engine.abort(sequence)


def test_owners_do_not_see_each_others_prefixes(engine):
    prompt = list(range(200, 260))
    for owner in ("a", "a", "b"):
        sequence = engine.add(prompt, SamplingParams(max_tokens=1), owner=owner)
        while not sequence.finished:
            engine.step()
    assert engine.stats().prefix_hits == 48
    shared = SamplingParams(max_tokens=1, cache_salt="team")
    for owner in ("c", "d"):
        sequence = engine.add(prompt, shared, owner=owner)
        while not sequence.finished:
            engine.step()
    assert engine.stats().prefix_hits == 96
