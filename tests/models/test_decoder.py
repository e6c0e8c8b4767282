"""The decoder alone: who sees whom, how much it weighs, and which shapes it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.core.errors import ConfigError, UsageError
from weft.models import Decoder, DecoderConfig, RopeScaling
from weft.models.names import DECODER, foreign
from weft.ops.attention import PackedRows

Make = Callable[..., Decoder]

SHAPE = DecoderConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
)
LLAMA = replace(SHAPE, architecture="LlamaForCausalLM", qk_norm=False)
SHAPES = {
    "qwen3": SHAPE,
    "qwen3-untied-biased": replace(SHAPE, tie_word_embeddings=False, attention_bias=True),
    "qwen2": replace(SHAPE, architecture="Qwen2ForCausalLM", qk_norm=False, attention_bias=True),
    "llama": LLAMA,
    "llama-biased": replace(LLAMA, attention_bias=True),
    "mistral": replace(LLAMA, architecture="MistralForCausalLM", sliding_window=3),
}


def hidden(model: Decoder, tokens: list[int], starts: list[int], window: int | None = None) -> Tensor:
    context = PackedRows(torch.tensor([starts], dtype=torch.int32), window)
    with torch.no_grad():
        state: Tensor = model(torch.tensor([tokens]), context)[0]
    return state


def test_documents_of_one_row_do_not_see_each_other(tiny_decoder: Make) -> None:
    model = tiny_decoder()
    first, second = [7, 8, 9], [20, 21, 22, 23]
    packed = hidden(model, first + second, [0] * 3 + [3] * 4)
    changed = hidden(model, [1, 2, 3, *second], [0] * 3 + [3] * 4)
    torch.testing.assert_close(packed[3:], changed[3:], rtol=0, atol=0)
    torch.testing.assert_close(packed[3:], hidden(model, second, [0] * 4))
    torch.testing.assert_close(packed[:3], hidden(model, first, [0] * 3))
    assert not torch.allclose(packed[3:], hidden(model, first + second, [0] * 7)[3:], atol=1e-3)


def test_no_token_sees_the_future(tiny_decoder: Make) -> None:
    model = tiny_decoder()
    a = hidden(model, [5, 6, 7, 8], [0] * 4)
    b = hidden(model, [5, 6, 7, 99], [0] * 4)
    torch.testing.assert_close(a[:3], b[:3], rtol=0, atol=0)
    assert not torch.allclose(a[3], b[3], atol=1e-3)


def test_a_window_forgets_what_lies_before_it(tiny_decoder: Make) -> None:
    """One layer with a window of 2 sees its own token and the one before."""
    model = tiny_decoder(num_hidden_layers=1)
    a = hidden(model, [5, 6, 7, 8], [0] * 4, window=2)
    b = hidden(model, [50, 6, 7, 8], [0] * 4, window=2)
    torch.testing.assert_close(a[2:], b[2:], rtol=0, atol=0)
    assert not torch.allclose(a[1], b[1], atol=1e-3)


def test_grouped_queries_equal_repeated_key_heads(tiny_decoder: Make) -> None:
    grouped = tiny_decoder(num_key_value_heads=2)
    full = tiny_decoder(num_key_value_heads=4)
    state = grouped.state_dict()
    for name, tensor in state.items():
        if name.endswith(("attention.k.weight", "attention.v.weight")):
            heads = tensor.view(2, grouped.config.head_dim, -1)
            state[name] = heads.repeat_interleave(2, dim=0).reshape(-1, tensor.shape[1])
    full.load_state_dict(state)
    tokens = list(range(40, 56))
    torch.testing.assert_close(hidden(grouped, tokens, [0] * 16), hidden(full, tokens, [0] * 16))


def test_positions_count_only_relatively(tiny_decoder: Make) -> None:
    """Rotary angles: two documents with the same text have the same states wherever they lie in the row."""
    state = hidden(tiny_decoder(), [5, 6, 7, 5, 6, 7], [0, 0, 0, 3, 3, 3])
    torch.testing.assert_close(state[:3], state[3:])


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_counted_as_they_are(name: str) -> None:
    config = SHAPES[name]
    model = Decoder(config)
    assert sum(p.numel() for p in model.parameters()) == config.parameters
    assert sum(p.numel() for p in model.blocks[0].parameters()) == config.block_parameters
    matrices = sum(p.numel() for p in model.blocks[0].parameters() if p.ndim == 2)
    assert matrices == config.block_matrices


@pytest.mark.parametrize("name", SHAPES)
def test_flops_follow_the_formula(name: str) -> None:
    """By hand: 2 per multiplication and addition, 3 passes; scores and mixing see half the context."""
    config, context = SHAPES[name], 64
    heads, size, width = 4, 6, 16
    per_layer = 2 * width * (heads * size) * 2 + 2 * width * (2 * size) * 2 + 3 * 2 * width * 24
    per_layer += 2 * (2 * heads * size * context / 2)
    assert config.flops_per_token(context) == 3 * (2 * per_layer + 2 * width * 50)


def test_every_parameter_has_a_name_elsewhere() -> None:
    seen = set()
    for config in SHAPES.values():
        names = [foreign(name) for name in Decoder(config).state_dict()]
        assert len(set(names)) == len(names)
        seen.update(names)
    # The router belongs to mixtures of experts, tests/models/test_moe.py.
    assert {name.format(1) for name in DECODER.values()} - seen == {"model.layers.1.mlp.gate.weight"}
    assert foreign("blocks.11.attention.q.bias") == "model.layers.11.self_attn.q_proj.bias"


def test_a_fresh_model_is_the_identity_between_embedding_and_norm() -> None:
    model = Decoder(SHAPE)
    model.initialise(torch.Generator().manual_seed(1))
    expected = model.norm(model.embedding(torch.tensor([1, 2, 3])))
    torch.testing.assert_close(hidden(model, [1, 2, 3], [0] * 3), expected.detach())
    again = Decoder(SHAPE)
    again.initialise(torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 3}, ("num_attention_heads = 4", "num_key_value_heads = 3")),
        ({"num_key_value_heads": 0}, ("num_key_value_heads = 0",)),
        ({"head_dim": 7}, ("head_dim = 7",)),
        ({"hidden_size": 0}, ("hidden_size = 0",)),
        ({"sliding_window": 0}, ("sliding_window = 0",)),
        ({"rope_theta": float("nan")}, ("rope_theta",)),
        ({"qk_norm": False}, ("qk_norm", "Qwen3ForCausalLM")),
        ({"architecture": "LlamaForCausalLM"}, ("qk_norm", "LlamaForCausalLM")),
        ({"architecture": "Qwen2ForCausalLM", "qk_norm": False}, ("attention_bias", "Qwen2ForCausalLM")),
        (
            {"architecture": "MistralForCausalLM", "qk_norm": False, "attention_bias": True},
            ("attention_bias", "MistralForCausalLM"),
        ),
        (
            {"architecture": "LlamaForCausalLM", "qk_norm": False, "sliding_window": 8},
            ("sliding_window = 8", "MistralForCausalLM"),
        ),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(SHAPE, **changes)
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'Qwen3ForCausalLM'"):
        replace(SHAPE, architecture="Qwen3ForCausualLM")


@pytest.mark.parametrize(
    "numbers",
    [
        {"rope_type": "yarn"},
        {"factor": 0.0},
        {"factor": float("inf")},
        {"low_freq_factor": 4.0, "high_freq_factor": 4.0},
    ],
)
def test_impossible_rope_scaling_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RopeScaling(**numbers)
