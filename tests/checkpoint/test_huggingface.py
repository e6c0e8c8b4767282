"""Logits equal to those of transformers, both ways, for every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from weft.checkpoint.huggingface import load_model, save_model
from weft.models import Decoder
from weft.ops.attention import PackedRows
from weft.ops.rope import inverse_frequencies
from weft.tokenizer import Tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Wide weights: differences of positions, masks and biases show in the logits.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 5,
    "pad_token_id": 5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 12}

CASES: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE, rope_parameters=LLAMA3, tie_word_embeddings=False),
    "llama-tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-biased-linear": lambda: LlamaConfig(**SHAPE, attention_bias=True, rope_parameters=LINEAR),
    "qwen2": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2-window": lambda: Qwen2Config(**SHAPE, **WINDOW),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=True),
    "qwen3-biased": lambda: Qwen3Config(**SHAPE, head_dim=16, attention_bias=True, tie_word_embeddings=False),
    "qwen3-moe": lambda: Qwen3MoeConfig(
        **SHAPE, **EXPERTS, norm_topk_prob=True, mlp_only_layers=[1], tie_word_embeddings=True
    ),
    "qwen3-moe-step-window": lambda: Qwen3MoeConfig(
        **SHAPE, **EXPERTS, decoder_sparse_step=2, use_sliding_window=True, sliding_window=5
    ),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=5, head_dim=10),
    "mistral-full": lambda: MistralConfig(**SHAPE, sliding_window=None),
}
TOKENS = torch.randint(0, 96, (2, 64), generator=torch.Generator().manual_seed(7))


def theirs(case: str) -> PreTrainedModel:
    """A random model; biases and norms, which start as zeros and ones, are drawn as well."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CASES[case](), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.2, 1.8)
    return model


def logits(model: Decoder, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    context = PackedRows(torch.zeros(tokens.shape, dtype=torch.int32), model.config.sliding_window)
    with torch.no_grad():
        return model.logits(model(tokens, context))


def their_logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def reopened(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, attn_implementation="eager")


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_both_ways(case: str, tmp_path: Path) -> None:
    model = theirs(case)
    expected = their_logits(model)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    assert distance(logits(ours), expected) < 1e-4

    save_model(tmp_path / "ours", ours, None, generation={"eos_token_id": 5, "pad_token_id": 5})
    back = reopened(tmp_path / "ours")
    assert distance(their_logits(back), expected) < 1e-4
    assert type(back) is type(model)
    state = model.state_dict()
    assert back.state_dict().keys() == state.keys()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("case", ["llama", "mistral", "qwen2-window"])
def test_the_special_part_of_a_family_matters(case: str, tmp_path: Path) -> None:
    """The agreement above would be empty if scaling or window did not change these logits."""
    model = theirs(case)
    expected = their_logits(model)
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    context = PackedRows(torch.zeros(TOKENS.shape, dtype=torch.int32))
    if case == "llama":
        ours.inverse_frequencies = inverse_frequencies(ours.config.head_dim, ours.config.rope_theta)
    with torch.no_grad():
        assert distance(ours.logits(ours(TOKENS, context)), expected) > 1e-2


@pytest.mark.parametrize("case", ["llama", "qwen3"])
def test_shards_open_both_ways(case: str, tmp_path: Path) -> None:
    model = theirs(case)
    expected = their_logits(model)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours = load_model(tmp_path / "theirs")
    assert distance(logits(ours), expected) < 1e-4

    save_model(tmp_path / "ours", ours, None, max_shard_bytes=20_000)
    shards = list((tmp_path / "ours").glob("*.safetensors"))
    assert len(shards) > 2
    assert all(shard.stat().st_size < 22_000 for shard in shards)
    assert distance(their_logits(reopened(tmp_path / "ours")), expected) < 1e-4
    assert torch.equal(logits(load_model(tmp_path / "ours")), logits(ours))


def test_our_folder_opens_unchanged_and_continues_with_the_same_text(
    tmp_path: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    model = tiny_decoder()
    save_model(tmp_path / "model", model, tiny_tokenizer)
    prompt = tiny_tokenizer.encode("今天天气很好，def add(")
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    prompt = [*tiny_tokenizer.start_ids, *prompt]
    assert their_tokenizer("今天天气很好，def add(")["input_ids"] == prompt

    tokens = torch.tensor([prompt])
    for _ in range(24):
        best = logits(model, tokens)[:, -1:].argmax(-1)
        tokens = torch.cat((tokens, best), dim=1)
    generated = reopened(tmp_path / "model").generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
    )
    assert generated.tolist() == tokens.tolist()
    assert their_tokenizer.decode(generated[0]) == tiny_tokenizer.decode(tokens[0].tolist())


def test_the_chat_template_beside_a_tokenizer_stays(
    tmp_path: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    given, template = tmp_path / "given", "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    save_model(given, tiny_decoder(), tiny_tokenizer)
    (given / "chat_template.jinja").write_text(template)
    for name, tokenizer in (("copied", given), ("saved", Tokenizer.load(given))):
        save_model(tmp_path / name, load_model(given), tokenizer)
        assert Tokenizer.load(tmp_path / name).chat_template == template
        their_tokenizer = AutoTokenizer.from_pretrained(tmp_path / name, local_files_only=True)
        asked = [{"role": "user", "content": "hi"}]
        assert their_tokenizer.apply_chat_template(asked, tokenize=False) == "[user] hi"


def test_weights_come_back_bit_for_bit(tmp_path: Path, tiny_decoder: Callable[..., Decoder]) -> None:
    for tied in (True, False):
        model = tiny_decoder(tie_word_embeddings=tied)
        save_model(tmp_path / "model", model, None)
        again = load_model(tmp_path)
        assert again.config == model.config
        assert (again.output.weight is again.embedding.weight) == tied
        for name, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
        assert torch.equal(logits(again), logits(model))


def test_dtype_is_kept_or_converted(tmp_path: Path, tiny_decoder: Callable[..., Decoder]) -> None:
    model = tiny_decoder()
    save_model(tmp_path / "half", model, None, dtype=torch.bfloat16)
    assert load_model(tmp_path / "half").embedding.weight.dtype == torch.bfloat16
    wide = load_model(tmp_path / "half", dtype=torch.float32)
    assert wide.embedding.weight.dtype == torch.float32
    assert torch.equal(wide.norm.weight, model.norm.weight.bfloat16().float())
    assert reopened(tmp_path / "half").dtype == torch.bfloat16


def test_a_model_that_was_loaded_can_be_trained(tmp_path: Path, tiny_decoder: Callable[..., Decoder]) -> None:
    save_model(tmp_path / "model", tiny_decoder(), None)
    model = load_model(tmp_path / "model")
    context = PackedRows(torch.zeros((1, 8), dtype=torch.int32))
    model.logits(model(TOKENS[:1, :8], context)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_both_spellings_of_config_json(tmp_path: Path) -> None:
    """transformers 4 wrote rope_theta and rope_scaling, transformers 5 writes rope_parameters."""
    model = theirs("llama")
    model.save_pretrained(tmp_path)
    new = load_model(tmp_path).config
    table = json.loads((tmp_path / "config.json").read_text())
    rope = table.pop("rope_parameters")
    table["rope_theta"] = rope.pop("rope_theta")
    table["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    table["torch_dtype"] = table.pop("dtype")
    (tmp_path / "config.json").write_text(json.dumps(table))
    assert load_model(tmp_path).config == new
    assert new.rope_scaling is not None
