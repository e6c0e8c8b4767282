"""The same bits whatever happens around a request: alone, batched, in chunks, cached, after preemption.

Compared are the drawn tokens and the logarithms of the model's probabilities, which show the last bit of the
scores, of greedy and of seeded requests.
"""

from __future__ import annotations

import pytest
import torch

from weft.engine import LLM, SamplingParams
from weft.engine.runner import prepare
from weft.engine.weights import for_inference
from weft.ops.paged import Pages

SHAPES = {
    "qwen3": {},
    "llama": {"qk_norm": False, "architecture": "LlamaForCausalLM", "num_key_value_heads": 4},
    "qwen2": {
        "qk_norm": False,
        "attention_bias": True,
        "architecture": "Qwen2ForCausalLM",
        "num_key_value_heads": 1,
    },
    "experts": {
        "architecture": "Qwen3MoeForCausalLM",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": (0,),
    },
    "window": {"sliding_window": 21, "qk_norm": False, "architecture": "MistralForCausalLM"},
    "long sums": {"intermediate_size": 1536, "hidden_size": 64, "num_hidden_layers": 1},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROMPT = [(7 * i * i + 3 * i) % 500 for i in range(83)]
NEIGHBOURS = ([5], [7, 8, 9], list(range(40, 75)), [3, 1, 4, 1, 5, 9, 2, 6], PROMPT[:50])
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=8)
SEEDED = SamplingParams(temperature=1.5, top_p=0.98, max_tokens=20, ignore_eos=True, logprobs=8, seed=11)


def block_bytes(model) -> int:
    config, dtype = model.config, model.embedding.weight.dtype
    return Pages.block_bytes(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, dtype)


def finish(engine: LLM, prompt, params):
    """What a request got, the engine having been run until it is done."""
    sequence = engine.add(prompt, params)
    while not sequence.finished:
        engine.step()
    return sequence.generated, sequence.logprobs


CASES = [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
CASES += [("qwen3", f"packed {form}") for form in ("float32", "bfloat16", "int8", "int4")]
CASES += [("experts", "packed int8"), ("window", "packed int8"), ("qwen2", "packed bfloat16")]


@pytest.fixture(scope="module", params=CASES, ids=lambda p: f"{p[0]}-{p[1]}")
def model(request, tiny_decoder):
    """Of plain layers, and in the packed forms that are served."""
    shape, dtype = request.param
    cpu, plain = torch.device("cpu"), tiny_decoder(**SHAPES[shape])
    if dtype.startswith("packed"):
        return for_inference(plain, cpu, dtype.split()[1])
    return prepare(plain, cpu, DTYPES[dtype])


@pytest.fixture(scope="module", params=[GREEDY, SEEDED], ids=["greedy", "seeded"])
def params(request):
    return request.param


@pytest.fixture(scope="module")
def alone(model, params, tiny_tokenizer):
    return finish(LLM(model, tiny_tokenizer), PROMPT, params)


def test_batched(model, params, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=8)
    for neighbour in NEIGHBOURS:
        engine.add(neighbour, SEEDED)
    engine.step()
    engine.step()
    assert finish(engine, PROMPT, params) == alone


@pytest.mark.parametrize("budget", [2, 7, 16, 33])
def test_in_chunks(model, params, alone, tiny_tokenizer, budget):
    engine = LLM(model, tiny_tokenizer, max_sequences=1, token_budget=budget)
    assert finish(engine, PROMPT, params) == alone


def test_in_chunks_beside_others(model, params, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=6, token_budget=11)
    for neighbour in NEIGHBOURS:
        engine.add(neighbour, GREEDY)
    assert finish(engine, PROMPT, params) == alone


def test_from_the_prefix_cache(model, params, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer)
    finish(engine, [*PROMPT[:60], 1, 2, 3], GREEDY)
    assert finish(engine, PROMPT, params) == alone
    assert engine.stats().prefix_hits == 48
    assert finish(engine, PROMPT, params) == alone
    assert engine.stats().prefix_hits == 48 + 80


def test_resumed_after_preemption(model, params, alone, tiny_tokenizer):
    engine = LLM(model, tiny_tokenizer, max_sequences=3, cache_bytes=13 * block_bytes(model))
    first = engine.add([9] * 40, SamplingParams(temperature=0, max_tokens=80, ignore_eos=True))
    second = engine.add([8] * 30, SamplingParams(temperature=0, max_tokens=60, ignore_eos=True))
    third = engine.add(PROMPT, params)
    while not (first.finished and second.finished and third.finished):
        engine.step()
    assert engine.scheduler.preemptions
    assert (third.generated, third.logprobs) == alone


def test_on_more_threads(model, params, alone, tiny_tokenizer):
    torch.set_num_threads(2)
    try:
        assert finish(LLM(model, tiny_tokenizer), PROMPT, params) == alone
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "model", [("qwen3", "fp32"), ("window", "bf16")], indirect=True, ids=["qwen3", "window"]
)
def test_all_of_it_with_an_int8_cache(model, tiny_tokenizer):
    alone = finish(LLM(model, tiny_tokenizer, cache_dtype=torch.int8), PROMPT, SEEDED)
    engine = LLM(model, tiny_tokenizer, max_sequences=6, token_budget=11, cache_dtype=torch.int8)
    for neighbour in NEIGHBOURS:
        engine.add(neighbour, GREEDY)
    assert finish(engine, PROMPT, SEEDED) == alone
    assert finish(engine, PROMPT, SEEDED) == alone
    exact = finish(LLM(model, tiny_tokenizer), PROMPT, SEEDED)
    assert 0 < abs(alone[1][0].logprob - exact[1][0].logprob) < 0.5
