"""The mixture of experts: counts, routing, what the bias may and may not do."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from weft.core.errors import ConfigError
from weft.models import Decoder, DecoderConfig
from weft.models.moe import SparseFeedForward, routers
from weft.models.names import foreign_parts
from weft.ops.attention import PackedRows
from weft.ops.experts import experts_plain

CONFIG = DecoderConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    architecture="Qwen3MoeForCausalLM",
    num_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    norm_topk_prob=True,
    mlp_only_layers=(2,),
)


def layer(**changes: object) -> SparseFeedForward:
    torch.manual_seed(0)
    found = SparseFeedForward(dataclasses.replace(CONFIG, initializer_range=0.3, **changes))
    return found


def test_counts_of_parameters_and_work() -> None:
    model = Decoder(CONFIG)
    assert sum(p.numel() for p in model.parameters()) == CONFIG.parameters
    unused = 3 * 4 * CONFIG.expert_parameters  # three sparse layers, four experts each that a token skips
    assert CONFIG.active_parameters == CONFIG.parameters - unused
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in n)
    attention = 6 * 4 * 4 * 8 * 64
    assert CONFIG.flops_per_token(64) == 6 * (matrices - unused + 96 * 32) + attention
    assert [CONFIG.sparse(i) for i in range(4)] == [True, True, False, True]
    assert [dataclasses.replace(CONFIG, decoder_sparse_step=2).sparse(i) for i in range(4)] == [
        False, True, False, True,
    ]  # fmt: skip


def test_every_expert_has_a_name_elsewhere() -> None:
    names = [part for name, _ in Decoder(CONFIG).named_parameters() for part in foreign_parts(name, 6)]
    assert len(set(names)) == len(names)
    assert {"model.layers.0.mlp.gate.weight", "model.layers.2.mlp.gate_proj.weight"} <= set(names)
    assert foreign_parts("blocks.11.feed_forward.experts.down", 3) == tuple(
        f"model.layers.11.mlp.experts.{expert}.down_proj.weight" for expert in range(3)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_experts": 0}, "num_experts = 0 must be at least 1"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok = 0 must be at least 1"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size = 0 must be at least 1"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step = 0 must be at least 1"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok = 7 is more than num_experts = 6"),
        ({"architecture": "Qwen3ForCausalLM"}, "num_experts = 6 does not fit architecture"),
    ],
)
def test_impossible_mixtures_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_layer_equals_the_formula(normalised: bool) -> None:
    block = layer(norm_topk_prob=normalised)
    x = torch.randn(2, 5, 32)
    scores = (x.flatten(0, 1) @ block.router.weight.T).softmax(-1)
    share, index = scores.topk(2)
    share = share / share.sum(-1, keepdim=True) if normalised else share
    weights = (block.experts.gate, block.experts.up, block.experts.down)
    expected = experts_plain(x.flatten(0, 1), index, share, *weights).view_as(x)
    torch.testing.assert_close(block(x), expected)


def test_the_router_works_in_fp32() -> None:
    block = layer()
    x = torch.randn(4, 32, dtype=torch.bfloat16)
    index, share = block.router(x)
    again, same = block.router(x.float())
    assert share.dtype == torch.float32 and torch.equal(index, again) and torch.equal(share, same)


def test_the_bias_changes_the_choice_and_not_the_shares() -> None:
    block = layer(norm_topk_prob=False)
    x = torch.randn(64, 32)
    scores = (x @ block.router.weight.T).softmax(-1)
    block.router.bias[4] = 10.0
    index, share = block.router(x)
    assert (index[:, 0] == 4).all()
    torch.testing.assert_close(share, scores.gather(-1, index))
    # Outside training the router is the stock one.
    stock, _ = block.eval().router(x)
    assert torch.equal(stock, scores.topk(2).indices)


def test_load_counts_training_passes_only() -> None:
    block = layer()
    x = torch.randn(3, 5, 32)
    block(x)
    block(x)
    assert int(block.router.load.sum()) == 2 * 3 * 5 * 2
    with torch.no_grad():
        block(x)
    block.eval()(x)
    assert int(block.router.load.sum()) == 2 * 3 * 5 * 2


def test_an_expert_without_tokens_gets_a_zero_gradient() -> None:
    block = layer()
    block.router.bias[1] = -10.0
    block(torch.randn(2, 8, 32)).square().sum().backward()
    assert block.router.load[1] == 0
    for weight in (block.experts.gate, block.experts.up, block.experts.down):
        assert not weight.grad[1].any() and weight.grad[0].any()


def test_a_fresh_model_starts_as_the_identity_between_embeddings() -> None:
    model = Decoder(CONFIG)
    model.initialise(torch.Generator().manual_seed(1))
    tokens = torch.randint(0, 96, (1, 16))
    hidden = model(tokens, PackedRows(torch.zeros(1, 16, dtype=torch.int32)))
    torch.testing.assert_close(hidden, model.norm(model.embedding(tokens)))
    assert len(routers(model)) == 3
