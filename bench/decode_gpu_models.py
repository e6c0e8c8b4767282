"""The models of bench/decode_gpu.py, made on the device, and what they are measured by."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from weft.models import Decoder, DecoderConfig


def shape(width: int, inner: int, layers: int, heads: int, **more: Any) -> DecoderConfig:
    common = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6}
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return DecoderConfig(
        **common | sizes | {"num_attention_heads": heads, "max_position_embeddings": 4096} | more
    )


SHAPES = {
    "8b": shape(4096, 12288, 36, 32, tie_word_embeddings=False),
    "0.6b": shape(1024, 3072, 28, 16),
    "tiny": shape(64, 128, 2, 4, vocab_size=512, num_key_value_heads=2, head_dim=16),
}


PLACES = {"8b": 2**17, "0.6b": 2**18, "tiny": 2**12}
"""Positions of the cache: 19, 30 and 0.001 GB. The 256 sequences of nano-vllm's workload fit into that of
0.6b nearly always."""


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes."""
    count = 2**30 if device.type == "cuda" else 2**26
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(8):
        wait(device)
        began = time.perf_counter()
        # Several, or launching and waiting would count as copying.
        for _ in range(10):
            target.copy_(source)
        wait(device)
        rates.append(10 * 2 * count / (time.perf_counter() - began))
    return max(rates)


def made(name: str, device: torch.device) -> Decoder:
    """A model of SHAPES in bf16; the weights are the same each time."""
    config = SHAPES[name]
    with torch.device("meta"):
        model = Decoder(config).bfloat16()
    model.to_empty(device=device)
    if config.tie_word_embeddings:
        model.output.weight = model.embedding.weight
    model.reset_buffers()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # Not the 0.02 of training: scores must differ for a greedy choice to mean something.
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.fill_(1)
    return model.to(device).requires_grad_(False).eval()


def token_bytes(model: Decoder) -> int:
    """Of the weights that one token needs: all but the embedding, unless it is the output matrix too."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    held = sum(t.numel() * t.element_size() for t in tensors.values())
    embedding = model.embedding.weight
    tied = model.config.tie_word_embeddings and getattr(model, "scores", None) is None
    return held - (0 if tied else embedding.numel() * embedding.element_size())


def prompts_of(config: DecoderConfig, lengths: list[int], seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, config.vocab_size - 1, length).tolist() for length in lengths]
