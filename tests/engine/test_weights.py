"""The packed decoder computes what the plain one computes, and the same for a row in any company."""

from __future__ import annotations

import copy

import pytest
import torch

from weft.core.errors import UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.runner import prepare
from weft.engine.weights import PackedDecoder, for_inference, quantised
from weft.models.moe import Experts
from weft.ops.attention import PackedRows
from weft.ops.kernels import decoder
from weft.ops.packed import Format
from weft.ops.quantise import dequantise_int4, quantise_int4, quantise_rows

CPU = torch.device("cpu")
SHAPES = {
    "grouped": {},
    "llama, biases": {"qk_norm": False, "architecture": "LlamaForCausalLM", "attention_bias": True},
    "qwen2": {"qk_norm": False, "architecture": "Qwen2ForCausalLM", "attention_bias": True},
    "window, untied": {
        "sliding_window": 7,
        "qk_norm": False,
        "architecture": "MistralForCausalLM",
        "tie_word_embeddings": False,
    },
    "odd sizes": {"intermediate_size": 50, "hidden_size": 36, "head_dim": 6, "vocab_size": 517},
    "experts": {
        "architecture": "Qwen3MoeForCausalLM",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": (0,),
        "norm_topk_prob": True,
    },
}
pytestmark = pytest.mark.skipif(decoder() is None, reason="needs a C++ compiler")


def scores(model, tokens):
    rows = PackedRows(torch.zeros_like(tokens, dtype=torch.int32), model.config.sliding_window)
    with torch.inference_mode():
        return model.logits(model(tokens, rows)).float()


def tokens_for(model, rows=2, length=30):
    return torch.randint(
        0, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(3)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_equals_the_plain_decoder(tiny_decoder, shape):
    model = tiny_decoder(**SHAPES[shape])
    packed, tokens = PackedDecoder(model, Format.FLOAT32, torch.float32), tokens_for(model)
    torch.testing.assert_close(scores(packed, tokens), scores(model, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_is_no_further_from_fp32_than_the_plain_decoder(tiny_decoder, shape):
    model = tiny_decoder(**SHAPES[shape])
    rounded = copy.deepcopy(prepare(copy.deepcopy(model), CPU, torch.bfloat16)).float()
    packed, tokens = PackedDecoder(model, Format.BFLOAT16, torch.bfloat16), tokens_for(model)
    expected = scores(rounded, tokens)
    plain = scores(prepare(model, CPU, torch.bfloat16), tokens)
    assert (scores(packed, tokens) - expected).norm() <= 1.2 * (plain - expected).norm()


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "experts"])
@pytest.mark.parametrize(("form", "bits"), [(Format.INT8, 8), (Format.INT4, 4)])
def test_whole_numbers_equal_the_plain_quantised_decoder(tiny_decoder, shape, form, bits):
    model = tiny_decoder(**SHAPES[shape])
    packed, tokens = PackedDecoder(model, form, torch.float32), tokens_for(model)
    twin = quantised(copy.deepcopy(model), bits)
    found, expected = scores(packed, tokens), scores(twin, tokens)
    # A last bit of difference before a rounding to a whole number can move it by one step.
    assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("form", [Format.INT8, Format.INT4])
def test_experts_in_whole_numbers_stay_near_their_dequantised_weights(tiny_decoder, form):
    model = tiny_decoder(**SHAPES["experts"])
    packed, tokens = PackedDecoder(model, form, torch.float32), tokens_for(model)
    twin = quantised(copy.deepcopy(model), 8 if form is Format.INT8 else 4)
    for stack in (module for module in twin.modules() if isinstance(module, Experts)):
        for weight in (stack.gate, stack.up, stack.down):
            for expert in weight.data:
                expert.copy_(_round_trip(expert, form))
    found, expected = scores(packed, tokens), scores(twin, tokens)
    assert (found - expected).norm() < 0.05 * expected.norm()


def _round_trip(weight, form):
    if form is Format.INT8:
        q, scale = quantise_rows(weight)
        return q.float() * scale[:, None]
    return dequantise_int4(*quantise_int4(weight))[:, : weight.shape[1]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", Format)
def test_hidden_states_of_a_row_do_not_depend_on_other_rows(tiny_decoder, shape, form):
    """Attention is left out: it belongs to the context."""
    model = tiny_decoder(**SHAPES[shape])
    packed = PackedDecoder(model, form, torch.float32)
    tokens = tokens_for(model, 1, 64)

    class Alone:
        """Every position is its own past."""

        def __init__(self, count):
            self.count = count

        def positions(self, tokens_BT):
            return torch.arange(100, 100 + self.count)[None]

        def attend(self, layer, q, k, v):
            return v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)

    together = packed.logits(packed(tokens, Alone(64)))
    for rows in (1, 2, 3, 5, 8, 13, 17, 33):
        alone = packed.logits(packed(tokens[:, :rows], Alone(rows)))
        assert torch.equal(alone, together[:, :rows]), rows


def test_many_rows_go_through_in_chunks(tiny_decoder, monkeypatch):
    monkeypatch.setattr("weft.ops.step._CHUNK", 7)
    model = tiny_decoder()
    packed, tokens = PackedDecoder(model, Format.FLOAT32, torch.float32), tokens_for(model, 3, 15)
    torch.testing.assert_close(scores(packed, tokens), scores(model, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "experts"])
def test_a_whole_step_has_the_bits_of_one_that_comes_back_for_each_layer(
    tiny_decoder, tiny_tokenizer, monkeypatch, shape, dtype
):
    monkeypatch.setattr("weft.ops.whole_step._ANGLES", 32)
    changes = {"vocab_size": 517, **SHAPES[shape]}
    whole = LLM(PackedDecoder(tiny_decoder(**changes), Format.INT8, dtype), tiny_tokenizer, token_budget=40)
    parts = LLM(PackedDecoder(tiny_decoder(**changes), Format.INT8, dtype), tiny_tokenizer, token_budget=40)
    assert whole.runner.model._whole is not None
    parts.runner.model._whole = None
    seen = {}
    for llm in (whole, parts):
        steps = seen[llm] = []
        scored = llm.runner._scores
        llm.runner._scores = lambda *given, scored=scored, steps=steps: (
            steps.append(scored(*given)) or steps[-1]
        )
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
        llm.generate([list(range(5, 5 + length)) for length in (100, 3, 50)], params)
    assert len(seen[whole]) == len(seen[parts]) > 12
    assert all(torch.equal(a, b) for a, b in zip(seen[whole], seen[parts], strict=True))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8", "int4", None])
def test_the_engine_runs_every_format(tiny_decoder, tiny_tokenizer, name):
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    model = for_inference(tiny_decoder(), CPU, name)
    assert isinstance(model, PackedDecoder)
    together = LLM(model, tiny_tokenizer).generate([[5, 6, 7]] * 3, params)
    assert len({answer.tokens for answer in together}) == 1 and len(together[0].tokens) == 8


@pytest.mark.parametrize("name", ["float32", "int8", "int4"])
def test_without_a_compiler_the_plain_modules_serve(tiny_decoder, monkeypatch, name):
    packed = for_inference(tiny_decoder(), CPU, name)
    monkeypatch.setattr("weft.engine.weights.decoder", lambda: None)
    plain = for_inference(tiny_decoder(), CPU, name)
    assert not isinstance(plain, PackedDecoder)
    tokens = tokens_for(plain)
    assert scores(plain, tokens).isfinite().all()
    if name == "float32":
        torch.testing.assert_close(scores(plain, tokens), scores(packed, tokens), rtol=1e-4, atol=1e-4)


def test_unknown_formats_are_refused(tiny_decoder):
    with pytest.raises(UsageError, match="float32, bfloat16, int8, int4, fp8"):
        for_inference(tiny_decoder(), CPU, "float16")


def test_the_format_of_packed_weights_is_fixed(tiny_decoder):
    packed = for_inference(tiny_decoder(), CPU, "int8")
    with pytest.raises(UsageError, match="fixed"):
        packed(torch.zeros(1, 1, dtype=torch.int64), None, torch.bfloat16)
