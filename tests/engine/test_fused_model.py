"""The decoder's form for GPUs computes what the plain one computes; compared on this processor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from weft.core.errors import ResourceError, UsageError
from weft.engine.fused import FusedDecoder, Joined
from weft.engine.runner import prepare
from weft.engine.weights import for_inference, quantised
from weft.ops.attention import PackedRows
from weft.ops.scaled import Float8, Int8

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPES = {
    "grouped": {},
    "llama, biases": {"qk_norm": False, "architecture": "LlamaForCausalLM", "attention_bias": True},
    "untied": {"qk_norm": False, "architecture": "MistralForCausalLM", "tie_word_embeddings": False},
}
EXPERTS = {
    "architecture": "Qwen3MoeForCausalLM",
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}


@pytest.fixture(autouse=True)
def as_it_is(request, monkeypatch):
    """Without the compiler, but where a test is about it."""
    if "compiler" not in request.node.name:
        monkeypatch.setenv("WEFT_COMPILE", "off")


def scores(model, rows=2, length=30):
    tokens = torch.randint(0, 512, (rows, length), generator=torch.Generator().manual_seed(3))
    context = PackedRows(torch.zeros_like(tokens, dtype=torch.int32))
    with torch.inference_mode():
        return model.logits(model(tokens, context)).float()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_it_equals_the_plain_decoder(tiny_decoder, shape, dtype):
    model = prepare(tiny_decoder(**SHAPES[shape]), CPU, dtype)
    expected = scores(model)
    found = scores(FusedDecoder(model, str(dtype).removeprefix("torch.")))
    assert (found - expected).norm() < (1e-5 if dtype is torch.float32 else 0.03) * expected.norm()


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_eight_bits_stay_near(tiny_decoder, name, shape):
    model = prepare(tiny_decoder(**SHAPES[shape]), CPU, torch.float32)
    expected = scores(model)
    twin = scores(quantised(copy.deepcopy(model), 8))
    fused = FusedDecoder(model, name)
    assert fused.number_format == name
    kinds = {type(layer) for layer in (*fused.blocks[0].children(), fused.scores)}
    assert kinds == {Float8 if name == "fp8" else Int8}
    found = scores(fused)
    assert 0 < (found - expected).norm() < 0.2 * expected.norm()
    if name == "int8":
        # The same numbers; a last bit before a rounding can move one by a step.
        assert (found - twin).norm() < 0.01 * twin.norm()


def test_sizes_that_are_no_multiples_keep_their_format(tiny_decoder):
    shape = {"intermediate_size": 50, "hidden_size": 32, "vocab_size": 517}
    fused = FusedDecoder(prepare(tiny_decoder(**shape), CPU, torch.float32), "int8")
    block = fused.blocks[0]
    assert isinstance(block.qkv, Int8) and isinstance(block.gate_up, Joined)
    assert isinstance(block.down, Joined) and isinstance(fused.scores, Joined)
    assert scores(fused).isfinite().all()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_the_compiler_makes_one_form_of_all_layers_and_numbers_of_rows(tiny_decoder, caplog):
    model = prepare(tiny_decoder(num_hidden_layers=3), CPU, torch.float32)
    expected = {rows: scores(model, 1, rows) for rows in (30, 7, 2)}
    fused = FusedDecoder(model, "float32")
    counters.clear()
    for rows, plain in expected.items():
        torch.testing.assert_close(scores(fused, 1, rows), plain, rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2
    assert not caplog.records


def test_what_a_gpu_does_not_take_is_said(tiny_decoder, monkeypatch):
    with pytest.raises(UsageError, match="int4 weights are for processors only"):
        for_inference(tiny_decoder(), CUDA, "int4")
    with pytest.raises(UsageError, match="auto-int8 weights are for processors only"):
        for_inference(tiny_decoder(), CUDA, "auto-int8")
    with pytest.raises(UsageError, match="int8 weights on a GPU are for models without experts"):
        for_inference(tiny_decoder(**EXPERTS), CUDA, "int8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ResourceError, match=r"capability 8\.9"):
        for_inference(tiny_decoder(), CUDA, "fp8")
    with pytest.raises(UsageError, match="fp8 weights are for GPUs only"):
        for_inference(tiny_decoder(), CPU, "fp8")
    with pytest.raises(UsageError, match="dtype of fused weights is fixed"):
        FusedDecoder(tiny_decoder(), "float32")(torch.zeros(1, 1, dtype=torch.int64), None, torch.bfloat16)
