"""What only a GPU can show: python -m pytest tests/gpu. Skipped where there is none."""

from __future__ import annotations

import random

import pytest
import torch
from tests.ops.flat import filled

from weft.engine import LLM, SamplingParams
from weft.engine.flat_step import FlatStep
from weft.engine.fused import FusedDecoder
from weft.engine.runner import prepare
from weft.engine.weights import for_inference
from weft.ops import float8
from weft.ops.attention import PackedRows
from weft.ops.compiled import plainly
from weft.ops.draw import Draw, draw_plain, draw_rows
from weft.ops.page_layout import Item, Layout
from weft.ops.paged import attend_plain
from weft.ops.quantise import quantise_rows
from weft.ops.scaled import Float8, Int8

GPU, CPU = torch.device("cuda"), torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # PyTorch's compiler warns of itself.
    pytest.mark.filterwarnings("ignore"),
]
SHAPES = {
    "grouped": ((8, 2), 64, None),
    "seven in a group": ((14, 2), 64, None),
    "window": ((4, 4), 128, 21),
}
MODELS = {
    "qwen3": {},
    "window": {"sliding_window": 21, "qk_norm": False, "architecture": "MistralForCausalLM"},
    "qwen2": {"qk_norm": False, "attention_bias": True, "architecture": "Qwen2ForCausalLM"},
}
PROMPTS = [[(7 * i * i + 3 * i + 11 * n) % 500 for i in range(n)] for n in (5, 33, 1, 70, 16, 21, 48, 90)]
GREEDY = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)


def small(tiny_decoder, **changes):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "num_attention_heads": 8}
    return tiny_decoder(**sizes | changes)


def warned(caplog):
    """What Weft, and not the compiler, has said."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("weft")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_paged_attention_equals_the_plain_path(shape, dtype, caplog):
    heads, head_dim, window = SHAPES[shape]
    for seed in range(4):
        chosen = random.Random(seed)
        lengths = [chosen.randint(1, 60), chosen.randint(30, 110), chosen.randint(70, 400), 40]
        counts = [1, chosen.randint(9, 30), chosen.randint(9, 70), chosen.randint(1, 4)]
        pages, tables = filled(heads, head_dim, lengths, window, 64, dtype, GPU, seed)
        items, first = [], 0
        for table, length, count in zip(tables, lengths, counts, strict=True):
            items.append(Item(first, count, length - count, table))
            first += count
        q = torch.randn(first, heads[0], head_dim, device=GPU).to(dtype)
        found = FlatStep(pages, items).mixed(0, q)
        expected = attend_plain(pages, 0, Layout(items, GPU, stored=False), q)
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert pages.paged and not warned(caplog)


def test_a_value_that_is_no_number_shows_to_who_sees_it_and_to_nobody_else():
    pages, tables = filled((4, 2), 64, [20, 9], dtype=torch.bfloat16, device=GPU)
    broken = torch.randn(1, 2, 64, device=GPU).bfloat16()
    broken[0, 1, 3] = float("inf")
    key = torch.randn(1, 2, 64, device=GPU).bfloat16()
    pages.store(0, Layout([Item(0, 1, 9, tables[1])], GPU), key, broken)
    items = [Item(0, 1, 19, tables[0]), Item(1, 1, 8, tables[1]), Item(2, 1, 9, tables[1])]
    found = FlatStep(pages, items).mixed(0, torch.randn(3, 4, 64, device=GPU).bfloat16())
    assert pages.paged and found[:2].isfinite().all() and found[2, :2].isfinite().all()
    assert found[2, 2:].isnan().all()


@pytest.mark.parametrize("kind", ["fp8", "int8"])
@pytest.mark.parametrize("rows", [1, 5, 16, 17, 33, 300])
def test_eight_bit_products_are_those_of_the_numbers_they_stand_for(kind, rows):
    if kind == "fp8" and not float8.has_float8(GPU):
        pytest.skip("this GPU has no fp8")
    x = torch.randn(rows, 512, device=GPU).bfloat16()
    weights = [torch.randn(size, 512, device=GPU).bfloat16() for size in (768, 256)]
    found = (Float8 if kind == "fp8" else Int8)(weights, [None, None])(x)
    numbers = []
    for matrix in (x, torch.cat(weights)):
        q, scale = float8.quantise(matrix) if kind == "fp8" else quantise_rows(matrix)
        numbers.append(q.double() * scale.double().view(-1, 1))
    expected = numbers[0] @ numbers[1].T
    assert ((found - expected).abs() <= 1e-2 * expected.abs().amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8", "fp8"])
def test_compiled_blocks_are_the_plain_ones(tiny_decoder, name, caplog):
    if name == "fp8" and not float8.has_float8(GPU):
        pytest.skip("this GPU has no fp8")
    dtype = torch.float32 if name == "float32" else torch.bfloat16
    fused = FusedDecoder(prepare(small(tiny_decoder), GPU, dtype), name)
    for length in (1, 7, 40):
        tokens = torch.arange(length, device=GPU).unsqueeze(0)
        scores = []
        for how in (torch.inference_mode, plainly):
            with torch.inference_mode(), how():
                context = PackedRows(torch.zeros_like(tokens, dtype=torch.int32))
                scores.append(fused.logits(fused(tokens, context)).float())
        found, expected = scores
        # Rounding to 8 bits makes steps of differences in the last bits of bf16.
        bound = {"float32": 1e-4, "bfloat16": 0.03}.get(name, 0.3)
        assert (found - expected).norm() <= bound * expected.norm()
    assert not warned(caplog)


@pytest.mark.parametrize("shape", MODELS)
@pytest.mark.parametrize("speculation", [False, True], ids=["", "speculation"])
@pytest.mark.parametrize("how", ["graphs", "no graphs", "no compiler"])
def test_greedy_tokens_are_those_of_a_processor(
    tiny_decoder, tiny_tokenizer, shape, speculation, how, monkeypatch, caplog
):
    settings = {"max_sequences": 6, "token_budget": 64, "speculation": speculation}
    model = prepare(small(tiny_decoder, **MODELS[shape]), CPU, torch.float32)
    expected = [a.tokens for a in LLM(model, tiny_tokenizer, **settings).generate(PROMPTS, GREEDY)]
    if how != "graphs":
        monkeypatch.setenv("WEFT_GRAPHS" if how == "no graphs" else "WEFT_COMPILE", "off")
    model = for_inference(small(tiny_decoder, **MODELS[shape]), GPU, "float32")
    assert isinstance(model, FusedDecoder)
    llm = LLM(model, tiny_tokenizer, **settings)
    assert [answer.tokens for answer in llm.generate(PROMPTS, GREEDY)] == expected
    captured = llm.runner.captured
    assert not warned(caplog)
    assert (captured is None) == (how != "graphs")
    if captured is not None:
        assert captured.replays >= 20


@pytest.mark.parametrize("name", ["bfloat16", "int8", "fp8"])
def test_the_engine_records_steps_of_every_format(tiny_decoder, tiny_tokenizer, name, caplog):
    if name == "fp8" and not float8.has_float8(GPU):
        pytest.skip("this GPU has no fp8")
    llm = LLM(for_inference(small(tiny_decoder), GPU, name), tiny_tokenizer, max_sequences=10)
    answers = llm.generate(PROMPTS, GREEDY)
    assert all(len(answer.tokens) == 30 for answer in answers)
    assert llm.runner.captured is not None and llm.runner.captured.replays and not warned(caplog)


def test_an_int8_cache_and_experts_are_served_as_before(tiny_decoder, tiny_tokenizer):
    model = for_inference(small(tiny_decoder), GPU, "float32")
    llm = LLM(model, tiny_tokenizer, cache_dtype=torch.int8)
    assert len(llm.generate(PROMPTS[:2], GREEDY)[0].tokens) == 30 and llm.runner.captured is None
    experts = {"architecture": "Qwen3MoeForCausalLM", "num_experts": 5, "num_experts_per_tok": 2}
    model = for_inference(small(tiny_decoder, moe_intermediate_size=32, **experts), GPU, "float32")
    llm = LLM(model, tiny_tokenizer)
    assert len(llm.generate(PROMPTS[:2], GREEDY)[0].tokens) == 30 and llm.runner.captured is None


def test_draws_are_those_of_a_processor():
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(80, 3000, generator=generator) * 4
    draws = [Draw(0.3 + 0.02 * i, 0, 1.0, 0.0, float(torch.rand(1, generator=generator))) for i in range(80)]
    expected = [draw_plain(row, draw) for row, draw in zip(scores, draws, strict=True)]
    assert draw_rows(scores.to(GPU), list(range(80)), draws) == expected
