"""A decoder as one GGUF file, which llama.cpp and programs on top of it load.

The layout is version 3 of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: a header, typed
metadata, descriptions of tensors, and their bytes, each at a multiple of 32.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.checkpoint.gguf_numbers import FP16, FP32, KINDS, Q8_0, Kind
from weft.checkpoint.gguf_vocabulary import vocabulary
from weft.core.errors import CheckpointError
from weft.core.files import disk_errors
from weft.core.registry import lookup
from weft.models.config import DecoderConfig
from weft.models.decoder import Decoder, rope_frequencies
from weft.ops.rope import inverse_frequencies
from weft.tokenizer.encode import FILE as TOKENIZER_FILE
from weft.tokenizer.encode import Tokenizer

FILE = "model.gguf"

_ALIGNMENT = 32
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_NAMES = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "output": "output",
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.o": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
"""Ours to llama.cpp's, without the layer before and ``weight`` or ``bias`` behind."""

# Types of metadata: UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY.
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def write_gguf(file: Path, model: Decoder, folder: Path, kind: str) -> None:
    """Write ``model`` with the tokenizer of ``folder``, if it has one, its matrices as ``kind`` of KINDS.

    Norms and biases are fp32. In q4_0 the embedding and the output matrix are q8_0: they decide about
    whole tokens. A matrix whose rows are no whole blocks is fp16. Raises CheckpointError for a model or a
    tokenizer that llama.cpp has no equal of, UsageError for an unknown kind.
    """
    chosen = lookup(KINDS, kind, "dtype")
    tokenizer, content = None, ""
    if (folder / TOKENIZER_FILE).is_file():
        tokenizer = Tokenizer.load(folder)
        content = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    table = _metadata(model.config, chosen) | vocabulary(tokenizer, content, model.config.vocab_size)
    tensors = [(name, tensor, _kind_of(name, tensor, chosen)) for name, tensor in _tensors(model)]
    with disk_errors(file), file.open("wb") as out:
        out.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(table)))
        for key, value in table.items():
            out.write(_text(key) + _typed(value))
        offset = 0
        for name, tensor, found in tensors:
            shape = tuple(reversed(tensor.shape))
            out.write(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            out.write(struct.pack("<IQ", found.tensor_type, offset))
            size = len(found.encode(torch.zeros(1, 32))) * tensor.numel() // 32
            offset += size + -size % _ALIGNMENT
        for _, tensor, found in tensors:
            out.write(bytes(-out.tell() % _ALIGNMENT))
            out.write(found.encode(tensor))
        out.write(bytes(-out.tell() % _ALIGNMENT))


def _metadata(config: DecoderConfig, kind: Kind) -> dict[str, Any]:
    """Everything but the tokenizer."""
    name = _ARCHITECTURES.get(config.architecture)
    if name is None:
        raise CheckpointError(
            f"{config.architecture} cannot be written to GGUF; {', '.join(_ARCHITECTURES)} can."
        )
    if config.sliding_window is not None and config.sliding_window < config.max_position_embeddings:
        raise CheckpointError(
            "llama.cpp attends to everything before and knows no window for these models, so a file would "
            f"answer differently beyond sliding_window = {config.sliding_window} tokens."
        )
    if name == "qwen3" and config.attention_bias:
        raise CheckpointError("llama.cpp knows no attention_bias in Qwen3 models; this one has it.")
    table: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
    }
    if config.rope_scaling is not None and config.rope_scaling.rope_type == "linear":
        table |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(config.rope_scaling.factor)}
    general = {"architecture": name, "file_type": kind.file_type, "quantization_version": 2}
    return {f"general.{key}": value for key, value in general.items()} | {
        f"{name}.{key}": value for key, value in table.items()
    }


def _tensors(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """llama.cpp's names and the tensors as it wants them."""
    config = model.config
    paired = _ARCHITECTURES[config.architecture] == "llama"
    if config.rope_scaling is not None and config.rope_scaling.rope_type == "llama3":
        plain = inverse_frequencies(config.head_dim, config.rope_theta)
        yield "rope_freqs.weight", plain / rope_frequencies(config)
    for name, parameter in model.named_parameters():
        layer, part, role = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.*)\.(weight|bias)", name).groups()  # type: ignore[union-attr]
        tensor = parameter.detach()
        if paired and part in ("attention.q", "attention.k"):
            tensor = _paired(tensor, config.head_dim)
        yield f"{'' if layer is None else f'blk.{layer}.'}{_NAMES[part]}.{role}", tensor


def _paired(tensor: Tensor, head_dim: int) -> Tensor:
    """From pairs (i, i + D/2) to neighbours (2i, 2i + 1): llama.cpp turns those in Llama models."""
    split = tensor.view(-1, 2, head_dim // 2, *tensor.shape[1:])
    return split.transpose(1, 2).reshape(tensor.shape)


def _kind_of(name: str, tensor: Tensor, kind: Kind) -> Kind:
    if tensor.ndim < 2:
        return FP32
    if kind is KINDS["q4_0"] and name in ("token_embd.weight", "output.weight"):
        kind = Q8_0
    return kind if kind.fits(tensor) else FP16


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    """A value of the metadata, its type before it."""
    if isinstance(value, list):
        of_text = isinstance(value[0], str) if value else True
        head = struct.pack("<IIQ", _ARRAY, _STRING if of_text else _INT32, len(value))
        return head + (b"".join(map(_text, value)) if of_text else struct.pack(f"<{len(value)}i", *value))
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    return struct.pack("<I", _STRING) + _text(value)
