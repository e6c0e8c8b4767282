"""What the cache, the batch and the chunks must not change: the tokens of a request."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from weft.core.errors import CheckpointError, UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.blocks import BLOCK
from weft.engine.cache import fit, pages
from weft.engine.runner import Runner, best_dtype, prepare
from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence
from weft.engine.text import text_stream
from weft.ops.attention import PackedRows

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
PROMPTS = ([5], [7, 8, 9], list(range(40, 75)), [3, 1, 4, 1, 5, 9, 2, 6])
SHAPES = {
    "grouped": {},
    "one key head": {"num_key_value_heads": 1},
    "no groups": {"num_key_value_heads": 4},
    "llama": {"qk_norm": False, "architecture": "LlamaForCausalLM"},
    "experts": {
        "architecture": "Qwen3MoeForCausalLM",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": (0,),
    },
    "window": {"sliding_window": 7, "qk_norm": False, "architecture": "MistralForCausalLM"},
}


def full_scores(model, tokens):
    """Scores after every position, computed without any cache."""
    row = torch.tensor([tokens])
    context = PackedRows(torch.zeros(1, len(tokens), dtype=torch.int32), model.config.sliding_window)
    return model.logits(model(row, context))[0]


def recompute(model, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(full_scores(model, tokens)[-1].argmax()))
    return tuple(tokens[len(prompt) :])


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_equals_full_recomputation_alone_and_in_a_batch(tiny_decoder, tiny_tokenizer, shape):
    model = tiny_decoder(**SHAPES[shape])
    expected = [recompute(model, prompt, 24) for prompt in PROMPTS]
    together = LLM(model, tiny_tokenizer, max_sequences=3).generate(PROMPTS, GREEDY)
    alone = [LLM(model, tiny_tokenizer).generate([prompt], GREEDY)[0] for prompt in PROMPTS]
    assert [c.tokens for c in together] == expected
    assert [c.tokens for c in alone] == expected
    assert {c.finish_reason for c in together} == {"length"}
    assert [c.prompt_tokens for c in together] == [len(prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_scores_of_chunks_equal_full_recomputation(tiny_decoder, tiny_tokenizer, shape, chunk):
    model = tiny_decoder(**SHAPES[shape])
    tokens = list(range(100, 160))
    runner = Runner(model, pages(model.config, 8, torch.float32, torch.device("cpu")))
    sequence = Sequence(tokens, GREEDY, seed=0, limit=9, text=text_stream(tiny_tokenizer, tokens))
    sequence.blocks = [5, 2, 7, 3]
    while sequence.uncached:
        work = Work(sequence, min(chunk, sequence.uncached))
        scores = runner.run([work])
        assert scores.shape == (int(work.last), 512)
        sequence.cached += work.tokens
    torch.testing.assert_close(scores[0], full_scores(model, tokens)[-1], rtol=1e-4, atol=1e-4)


def test_a_small_token_budget_changes_no_token(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    expected = [recompute(model, prompt, 24) for prompt in PROMPTS]
    engine = LLM(model, tiny_tokenizer, max_sequences=4, token_budget=6)
    assert [c.tokens for c in engine.generate(PROMPTS, GREEDY)] == expected


def test_requests_that_come_and_go_change_no_other(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    engine = LLM(model, tiny_tokenizer, max_sequences=5)
    sequences = [engine.add(prompt, GREEDY) for prompt in (*PROMPTS, [11, 12])]
    engine.step()
    engine.step()
    engine.abort(sequences[1])
    engine.abort(sequences[3])
    engine.step()
    late = engine.add([20, 21, 22, 23], GREEDY)
    while engine.scheduler.busy:
        engine.step()
    for sequence in (sequences[0], sequences[2], sequences[4], late):
        prompt = sequence.tokens[: sequence.prompt_length]
        assert tuple(sequence.generated) == recompute(model, prompt, 24)
    assert engine.stats().free_blocks == engine.stats().total_blocks


def test_a_seed_decides_the_tokens_whatever_the_neighbours(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    drawn = SamplingParams(temperature=1.0, top_k=40, top_p=0.95, min_p=0.01, max_tokens=20, seed=7)
    engine = LLM(model, tiny_tokenizer, max_sequences=4)
    alone = engine.generate([[5, 6, 7]], drawn)[0]
    beside = engine.generate([*PROMPTS, [5, 6, 7]], [GREEDY] * len(PROMPTS) + [drawn])[-1]
    assert alone == beside
    other = engine.generate([[5, 6, 7]], SamplingParams(max_tokens=20, seed=8))[0]
    assert other.tokens != alone.tokens


def test_samples_of_one_seed_differ_and_repeat(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    params = SamplingParams(max_tokens=12, seed=3)
    runs = [engine.generate([[9]] * 4, [params.sample(i) for i in range(4)]) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({c.tokens for c in runs[0]}) == 4


def test_without_a_seed_samples_differ(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    first, second = engine.generate([[9]] * 2, SamplingParams(max_tokens=20, ignore_eos=True))
    assert first.tokens != second.tokens


def test_the_end_of_the_context_ends_the_answer(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(max_position_embeddings=16), tiny_tokenizer)
    answer = engine.generate([list(range(10))], SamplingParams(temperature=0, ignore_eos=True))[0]
    assert (len(answer.tokens), answer.finish_reason) == (6, "length")


def test_a_prompt_longer_than_the_context_is_refused_with_the_lengths(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(max_position_embeddings=16), tiny_tokenizer)
    with pytest.raises(UsageError, match="16 tokens, but the context holds 16"):
        engine.generate([[1]], GREEDY) and engine.add(list(range(16)), GREEDY)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "no tokens"), ([512], "token id 512"), ([-1], "token id -1"), ([1.5], "whole"), ([True], "whole")],
)
def test_bad_token_ids_are_refused(tiny_decoder, tiny_tokenizer, prompt, message):
    with pytest.raises(UsageError, match=message):
        LLM(tiny_decoder(), tiny_tokenizer).add(prompt, GREEDY)


def test_texts_begin_as_documents_did_in_training(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    assert engine.encode("") == [tiny_tokenizer.eos_id]
    assert engine.encode("天气") == [tiny_tokenizer.eos_id, *tiny_tokenizer.encode("天气")]
    assert engine.encode([4, 5]) == [4, 5]


def test_the_end_token_ends_the_answer_and_has_no_text(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    with torch.no_grad():
        model.output.weight[tiny_tokenizer.eos_id] *= 50
    answers = LLM(model, tiny_tokenizer).generate(PROMPTS, SamplingParams(max_tokens=50, seed=1))
    assert any(c.finish_reason == "stop" and c.tokens[-1] == tiny_tokenizer.eos_id for c in answers)
    assert not any("<|endoftext|>" in c.text for c in answers)


def test_an_error_leaves_no_request_behind(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    with pytest.raises(UsageError):
        engine.generate([[1], [9999]], GREEDY)
    assert not engine.scheduler.busy


def test_leaving_a_stream_frees_its_blocks(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer, max_sequences=2)
    pieces = engine.stream([1, 2], GREEDY)
    next(pieces)
    assert engine.scheduler.free_slots == 1
    pieces.close()
    assert engine.scheduler.free_slots == 2


def test_a_stream_is_whole_whoever_steps_the_engine(tiny_decoder, tiny_tokenizer):
    engine = LLM(tiny_decoder(), tiny_tokenizer)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    prompts = ([5], [7, 8])
    whole = [answer.text for answer in engine.generate(prompts, params)]
    streams = [engine.stream(prompt, params) for prompt in prompts]
    in_turn = list(itertools.zip_longest(*streams, fillvalue=""))
    assert ["".join(pieces) for pieces in zip(*in_turn, strict=True)] == whole
    pieces = engine.stream(prompts[0], params)
    first = next(pieces)
    engine.generate([prompts[1]], dataclasses.replace(params, max_tokens=60))
    assert first + "".join(pieces) == whole[0]


def test_scores_that_are_not_numbers_stop_with_a_sentence(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    model.norm.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        LLM(model, tiny_tokenizer).generate([[1]], GREEDY)


def test_a_model_smaller_than_its_tokenizer_is_refused(tiny_decoder, tiny_tokenizer):
    with pytest.raises(CheckpointError, match="512 tokens and the model only 500"):
        LLM(tiny_decoder(vocab_size=500), tiny_tokenizer)


def test_ids_without_a_token_are_never_drawn(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder(vocab_size=576)
    model.embedding.weight[512:] *= 50
    answer = LLM(model, tiny_tokenizer).generate([[1, 2]], GREEDY)[0]
    assert max(answer.tokens) < 512


def test_the_cache_fits_the_memory(tiny_decoder):
    config = tiny_decoder().config
    block = BLOCK * 2 * 2 * (8 + 16) * 4  # values are padded to whole vectors
    assert fit(config, 16, torch.float32, block * 8 * 16) == (16 * 8, 128)
    assert fit(config, 16, torch.float32, block * 8 * 99) == (16 * 8, 128)
    assert fit(config, 16, torch.float32, block * 20) == (20, 128)
    assert fit(config, 16, torch.float32, block * 3) == (3, 48)
    assert fit(config, 16, torch.float32, 1) == (1, 16)


def test_bfloat16_keeps_norms_and_frequencies_wide(tiny_decoder, tiny_tokenizer):
    model = prepare(tiny_decoder(), torch.device("cpu"), torch.bfloat16)
    assert model.embedding.weight.dtype == model.output.weight.dtype == torch.bfloat16
    assert model.norm.weight.dtype == model.inverse_frequencies.dtype == torch.float32
    assert model.output.weight is model.embedding.weight
    assert len(LLM(model, tiny_tokenizer).generate([[1, 2, 3]], GREEDY)[0].tokens) == 24


def test_dtypes_by_name():
    cpu = torch.device("cpu")
    assert best_dtype(cpu, "float32") is torch.float32
    assert best_dtype(cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(UsageError, match="float16"):
        best_dtype(cpu, "float16")


def test_routers_keep_fp32_in_the_engine(tiny_decoder):
    model = prepare(tiny_decoder(**SHAPES["experts"]), torch.device("cpu"), torch.bfloat16)
    layer = model.blocks[1].feed_forward
    assert layer.router.weight.dtype == torch.float32
    assert layer.experts.gate.dtype == torch.bfloat16
