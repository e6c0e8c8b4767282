"""GGUF files, read back by a reader of the test's own that follows the published layout."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from weft.checkpoint.convert import ConvertConfig, convert, describe
from weft.checkpoint.gguf_numbers import KINDS
from weft.checkpoint.gguf_vocabulary import vocabulary
from weft.checkpoint.huggingface import save_model
from weft.core.errors import CheckpointError, UsageError
from weft.models.config import RopeScaling
from weft.tokenizer import Tokenizer

LLAMA = {"architecture": "LlamaForCausalLM", "qk_norm": False}


SCALARS = {4: "I", 5: "i", 6: "f", 7: "?"}


class Reader:
    """Metadata and tensors of a file; tensors as fp32 in the order of numpy."""

    def __init__(self, file):
        self.data, self.at = file.read_bytes(), 0
        assert self.data[:4] == b"GGUF"
        self.at = 4
        version, tensors, keys = self.take("IQQ")
        assert version == 3
        self.table = {self.text(): self.value(self.take("I")[0]) for _ in range(keys)}
        infos = [self.info() for _ in range(tensors)]
        start = self.at + -self.at % 32
        self.tensors = {name: self.tensor(shape, kind, start + offset) for name, shape, kind, offset in infos}
        self.kinds = {name: kind for name, _, kind, _ in infos}

    def take(self, form):
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def text(self):
        (size,) = self.take("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.take("IQ")
            return [self.value(inner) for _ in range(count)]
        return self.take(SCALARS[kind])[0]

    def info(self):
        name = self.text()
        (dimensions,) = self.take("I")
        shape = self.take(f"{dimensions}Q")
        kind, offset = self.take("IQ")
        assert offset % 32 == 0
        return name, tuple(reversed(shape)), kind, offset

    def tensor(self, shape, kind, at):
        count = int(np.prod(shape))
        if kind in (0, 1):
            form = ("<f4", "<f2")[kind]
            return np.frombuffer(self.data, form, count, at).astype(np.float32).reshape(shape)
        if kind == 30:
            bits = np.frombuffer(self.data, "<u2", count, at).astype(np.uint32) << 16
            return bits.view(np.float32).reshape(shape)
        size = {8: 34, 2: 18}[kind]
        blocks = np.frombuffer(self.data, np.uint8, count // 32 * size, at).reshape(-1, size)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
        body = blocks[:, 2:]
        if kind == 8:
            return (body.copy().view(np.int8) * scale).reshape(shape)
        low, high = (body & 15).astype(np.int8) - 8, (body >> 4).astype(np.int8) - 8
        return (np.concatenate((low, high), 1) * scale).reshape(shape)


@pytest.fixture
def exported(tmp_path, tiny_decoder, tiny_tokenizer):
    def make(dtype=None, tokenizer=True, **changes):
        model = tiny_decoder(**changes)
        save_model(tmp_path / "model", model, tiny_tokenizer if tokenizer else None)
        record = convert(
            tmp_path / "model", tmp_path / "out", ConvertConfig(dtype, format="gguf"), command="export"
        )
        assert "model.gguf" in describe(record, tmp_path / "out")
        return model, Reader(tmp_path / "out" / "model.gguf")

    return make


@pytest.mark.parametrize("dtype", [None, *KINDS])
def test_tensors_come_back_up_to_the_rounding_of_their_type(exported, dtype):
    model, found = exported(dtype)
    bound = {"float32": 0, "q8_0": 0.006, "q4_0": 0.15, "bfloat16": 0.005}.get(dtype, 0.001)
    for ours, theirs in {
        "embedding.weight": "token_embd.weight",
        "blocks.1.attention.q.weight": "blk.1.attn_q.weight",
        "blocks.0.feed_forward.down.weight": "blk.0.ffn_down.weight",
        "blocks.1.attention.k_norm.weight": "blk.1.attn_k_norm.weight",
        "norm.weight": "output_norm.weight",
    }.items():
        expected = model.get_parameter(ours).numpy()
        error = np.abs(found.tensors[theirs] - expected).max()
        assert error <= bound * np.abs(expected).max(), ours
        assert found.kinds[theirs] == 0 or expected.ndim == 2
    assert "output.weight" not in found.tensors  # tied
    if dtype == "q4_0":
        assert found.kinds["token_embd.weight"] == 8 and found.kinds["blk.0.ffn_up.weight"] == 2


def test_metadata_says_what_the_config_says(exported):
    model, found = exported()
    config = model.config
    assert found.table["general.architecture"] == "qwen3"
    assert found.table["qwen3.attention.head_count_kv"] == config.num_key_value_heads
    assert found.table["qwen3.rope.freq_base"] == config.rope_theta
    assert found.table["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps)


def test_the_vocabulary_is_the_tokenizers_own(exported, tiny_tokenizer):
    _, table = exported()[1].tensors, exported()[1].table
    assert table["tokenizer.ggml.pre"] == "qwen2"
    assert table["tokenizer.ggml.tokens"][tiny_tokenizer.eos_id] == "<|endoftext|>"
    assert table["tokenizer.ggml.token_type"][tiny_tokenizer.eos_id] == 3
    assert table["tokenizer.ggml.bos_token_id"] == tiny_tokenizer.eos_id
    assert table["tokenizer.ggml.add_bos_token"] is True
    assert all(" " in merge for merge in table["tokenizer.ggml.merges"])
    assert "im_start" in table["tokenizer.chat_template"]


def test_templates_and_the_token_that_begins_them_are_the_tokenizers(tiny_tokenizer):
    content = json.dumps(json.loads(tiny_tokenizer.to_json()) | {"post_processor": None})
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    config = {"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>", "chat_template": named}
    table = vocabulary(Tokenizer(content, config), content, 512)
    assert table["tokenizer.ggml.bos_token_id"] == tiny_tokenizer.token_id("<|im_start|>")
    assert table["tokenizer.ggml.add_bos_token"] is False
    assert table["tokenizer.chat_template"] == "plain"
    assert table["tokenizer.chat_template.tool_use"] == "tools"
    beside = vocabulary(Tokenizer(content, config, "beside"), content, 512)
    assert beside["tokenizer.chat_template"] == "beside" and "tokenizer.chat_template.tool_use" not in beside


def test_llama_models_turn_neighbours(exported):
    model, found = exported("float32", **LLAMA)
    q = model.get_parameter("blocks.0.attention.q.weight")
    head = q[:8]
    expected = torch.stack((head[:4], head[4:]), 1).reshape(8, -1)
    assert np.array_equal(found.tensors["blk.0.attn_q.weight"][:8], expected.numpy())
    assert found.table["general.architecture"] == "llama"


def test_llama3_scaling_becomes_factors_of_the_frequencies(exported):
    scaling = RopeScaling(factor=4.0, original_max_position_embeddings=16)
    _, found = exported("float32", **LLAMA, rope_scaling=scaling)
    factors = found.tensors["rope_freqs.weight"]
    assert factors.shape == (4,) and factors.max() == pytest.approx(4.0) and factors.min() >= 1.0


def test_rows_that_are_no_whole_blocks_are_fp16(exported):
    _, found = exported("q8_0", intermediate_size=50)
    assert found.kinds["blk.0.ffn_down.weight"] == 1 and found.kinds["blk.0.ffn_up.weight"] == 8


def test_without_a_tokenizer_the_file_takes_token_ids(exported):
    assert exported(tokenizer=False)[1].table["tokenizer.ggml.model"] == "no_vocab"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (
            {
                "architecture": "Qwen3MoeForCausalLM",
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
            },
            "Qwen3MoeForCausalLM cannot",
        ),
        ({"attention_bias": True}, "attention_bias"),
        ({"sliding_window": 16}, "sliding_window = 16"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused(exported, changes, word):
    with pytest.raises(CheckpointError, match=word):
        exported(**changes)


def test_a_foreign_split_is_refused(tiny_tokenizer):
    content = tiny_tokenizer._special.to_str().replace("?i:'s", "?i:'x")
    with pytest.raises(CheckpointError, match="has no name"):
        vocabulary(tiny_tokenizer, content, 512)


def test_block_types_are_for_gguf_alone(tmp_path, tiny_decoder, tiny_tokenizer):
    save_model(tmp_path / "model", tiny_decoder(), tiny_tokenizer)
    with pytest.raises(UsageError, match="q8_0"):
        convert(tmp_path / "model", tmp_path / "out", ConvertConfig("q8_0"), command="export")
