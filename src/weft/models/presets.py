"""Sizes as data: a ladder of decoder shapes, each about twice the one before in parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weft.models.config import DecoderConfig
from weft.models.families import FAMILIES


@dataclass(frozen=True)
class Size:
    """One rung: number of blocks, model width and head size."""

    layers: int
    width: int
    head_dim: int

    def config(
        self,
        vocab_size: int,
        context: int,
        architecture: str = "Qwen3ForCausalLM",
        mixture: Mapping[str, Any] | None = None,
    ) -> DecoderConfig:
        """The decoder of this size; ``mixture`` holds the fields of DecoderConfig about experts."""
        heads = self.width // self.head_dim
        family = FAMILIES[architecture]
        return DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=self.width,
            intermediate_size=feed_forward(self.width),
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=self.head_dim,
            architecture=architecture,
            qk_norm=family.qk_norm,
            attention_bias=bool(family.attention_bias),
            max_position_embeddings=context,
            **(mixture or {}),
        )


def feed_forward(width: int) -> int:
    """Width of the feed-forward of a decoder of ``width``: 8/3 of it, rounded up to 64."""
    return -(-width * 8 // 3 // 64) * 64


def expert_width(dense: int, chosen: int) -> int:
    """Width of an expert such that ``chosen`` of them do the work of one feed-forward of width ``dense``."""
    return -(-dense // chosen // 16) * 16


LADDER: tuple[Size, ...] = (
    Size(3, 96, 32),
    Size(4, 128, 32),
    Size(5, 160, 32),
    Size(6, 192, 32),
    Size(6, 256, 64),
    Size(6, 320, 64),
    Size(8, 384, 64),
    Size(8, 512, 64),
    Size(10, 640, 64),
    Size(12, 768, 64),
    Size(16, 1024, 64),
    Size(20, 1280, 64),
    Size(24, 1536, 128),
    Size(24, 2048, 128),
    Size(28, 3072, 128),
)
"""Depth over width as in published small models (about width / 64 to width / 32 blocks)."""
