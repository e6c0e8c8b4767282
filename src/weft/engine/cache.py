"""The key-value cache of the engine, and the attention context (:mod:`weft.ops.cache`) of one step over it.

A step is flat: N rows, each a token of some sequence; matrices see N rows, and only attention knows to which
sequence a row belongs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.engine.blocks import BLOCK
from weft.engine.scheduler import Work
from weft.models.config import DecoderConfig
from weft.ops.paged import PAGE, Item, Layout, Pages

# Said twice because blocks.py knows no torch.
assert BLOCK == PAGE


def fit(config: DecoderConfig, slots: int, dtype: torch.dtype, memory_bytes: int) -> tuple[int, int]:
    """(blocks, positions of the context) that fit in ``memory_bytes``; enough for all ``slots`` at most."""
    size = Pages.block_bytes(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, dtype)
    blocks = max(1, memory_bytes // size)
    context = min(config.max_position_embeddings, blocks * BLOCK)
    return min(blocks, slots * -(-context // BLOCK)), context


def pages(config: DecoderConfig, blocks: int, dtype: torch.dtype, device: torch.device) -> Pages:
    """An empty cache for a decoder of this shape."""
    heads = (config.num_attention_heads, config.num_key_value_heads)
    return Pages(
        config.num_hidden_layers, blocks, heads, config.head_dim, dtype, device, config.sliding_window
    )


class StepContext:
    """The attention context of one step over ``pages``."""

    def __init__(self, pages: Pages, work: Sequence[Work]):
        items, row = [], 0
        for item in work:
            items.append(Item(row, item.rows, item.sequence.cached, item.sequence.blocks))
            row += item.rows
        self._pages, self._layout = pages, Layout(items, pages.device)

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int64 [1, N]."""
        return self._layout.positions_N.unsqueeze(0)

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[1, N, H, D]; stores the new keys and values first."""
        return self._pages.attend(layer, self._layout, q_BTHD[0], k_BTGD[0], v_BTGD[0]).unsqueeze(0)
