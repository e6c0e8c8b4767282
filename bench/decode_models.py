"""The models of bench/decode.py: random weights in two shapes, as Hugging Face folders and GGUF files."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from weft.checkpoint.convert import ConvertConfig, convert
from weft.checkpoint.huggingface import save_model
from weft.models import Decoder, DecoderConfig
from weft.tokenizer import Tokenizer
from weft.tokenizer.bytelevel import CHARACTER_OF_BYTE
from weft.tokenizer.special import END_OF_TEXT
from weft.tokenizer.train import SPLIT

SHAPES = {
    # The blocks of Qwen3-0.6B under a smaller vocabulary: 507.6 million parameters.
    "qwen3-0.5b": DecoderConfig(
        vocab_size=65536,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        rope_theta=1e6,
    ),
    "llama-34m": DecoderConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        architecture="LlamaForCausalLM",
        qk_norm=False,
        tie_word_embeddings=False,
    ),
}


def folder_of(name: str, home: Path) -> Path:
    """The model ``name`` of SHAPES as a bf16 folder, made when absent; the weights are always the same."""
    folder = home / name
    if not (folder / "config.json").exists():
        model = Decoder(SHAPES[name]).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # Not the 0.02 of training: scores must differ enough for a greedy choice to mean something.
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        save_model(folder, model.bfloat16(), tokenizer(SHAPES[name].vocab_size))
    return folder


def gguf_of(name: str, home: Path, kind: str) -> Path:
    """The same weights in llama.cpp's format."""
    out = home / f"{name}-{kind}"
    convert(folder_of(name, home), out, ConvertConfig(kind, format="gguf"), command="export")
    return out / "model.gguf"


def tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level tokenizer of that size without merges: the benchmark speaks in token ids."""
    names = [*CHARACTER_OF_BYTE.values(), *(f"token{i}" for i in range(256, vocab_size - 1))]
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    end = {"id": vocab_size - 1, "content": END_OF_TEXT, "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    table = {
        "version": "1.0",
        "added_tokens": [end | flags],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "decoder": level,
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []},
    }
    return Tokenizer(json.dumps(table))
