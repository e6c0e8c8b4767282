"""A tiny tokenizer and tiny random models that several floors test with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.models import Decoder, DecoderConfig
from weft.tokenizer import Tokenizer, train

TEXTS = (
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))  # three\n",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n",
    "今天天气很好，我们去公园散步。语言模型一个字一个字地写。\n",
    "Emoji: 😀🎉👩‍👩‍👧 and more text, more words, more tokens.\n",
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """512 tokens, byte-level, learnt from a few lines of English, Chinese and code."""
    return train(TEXTS * 20, 512)


@pytest.fixture(scope="session")
def tiny_decoder() -> Callable[..., Decoder]:
    """Makes a random two-layer Qwen3-shaped decoder in fp32; keywords override its config."""

    def make(seed: int = 0, **changes: Any) -> Decoder:
        shape: dict[str, Any] = {
            "vocab_size": 512,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 128,
        }
        model = Decoder(DecoderConfig(**{**shape, **changes}))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                # Wide enough that attention matters and the scores have clear winners.
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.3, generator=generator)
                else:
                    parameter.uniform_(0.5, 1.5, generator=generator)
        return model.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few packages of the standard library, vocabulary 512."""
    from weft.data.config import DataConfig, SplitConfig, TokenizerConfig
    from weft.data.prepare import prepare
    from weft.data.sources import standard_library

    out = tmp_path_factory.mktemp("data")
    sources = [standard_library() / name for name in ("json", "email", "http", "logging", "concurrent")]
    config = DataConfig(split=SplitConfig(valid=0.15, test=0.15), tokenizer=TokenizerConfig(vocab_size=512))
    prepare(config, sources, out)
    return out
