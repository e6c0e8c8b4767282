"""The key-value cache of the engine, and the attention context (:mod:`weft.ops.cache`) of one step over it.

A step is flat: N rows, each a token of some sequence; matrices see N rows, and only attention knows to which
sequence a row belongs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from weft.core.hardware import usable_memory
from weft.engine.blocks import BLOCK
from weft.engine.scheduler import Work
from weft.engine.search import WIDEST, Beams
from weft.models.config import DecoderConfig
from weft.models.encdec_config import EncoderDecoderConfig
from weft.ops.cache import NativeAttention, NativeContext
from weft.ops.flat_pages import FlatPages
from weft.ops.flex import SMALLEST_HEAD
from weft.ops.page_layout import PAGE, Item, Layout
from weft.ops.paged import Pages

Config = DecoderConfig | EncoderDecoderConfig

# Said twice because blocks.py knows no torch.
assert BLOCK == PAGE

POSITIONS = 4096
"""Of a source and its answer together: an encoder-decoder has no limit of its own, a block table has one."""


_MOST_NUMBERS = 2**31
"""Of the keys of a layer: the kernels of flex_attention count them in 32 bits."""

_log = logging.getLogger("weft.engine")


def free_memory(device: torch.device) -> int:
    """Bytes that a cache may take unasked: half of the memory, on a GPU half of what is free."""
    return (usable_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]) // 2


def fit(config: Config, slots: int, dtype: torch.dtype, memory_bytes: int) -> tuple[int, int]:
    """(blocks, positions of the context) that fit in ``memory_bytes``; enough for all ``slots`` at most.

    That of an encoder-decoder is one for every beam: searching is what they are asked for. It is enough for
    one search of the widest.
    """
    most = _shape(config)[-1]
    blocks = affordable(config, dtype, memory_bytes)
    context = min(most, blocks * BLOCK)
    if isinstance(config, EncoderDecoderConfig):
        slots = max(slots * Beams().beams, WIDEST)
    return min(blocks, slots * -(-context // BLOCK)), context


def affordable(config: Config, dtype: torch.dtype, memory_bytes: int) -> int:
    """Blocks that fit in ``memory_bytes``, at least one."""
    layers, (_, groups), head_dim, _ = _shape(config)
    return max(1, memory_bytes // Pages.block_bytes(layers, groups, head_dim, dtype))


def pages(config: Config, blocks: int, dtype: torch.dtype, device: torch.device) -> Pages:
    """An empty cache for a decoder of this shape; on a GPU one that paged attention reads, where it can."""
    layers, heads, head_dim, most = _shape(config)
    if isinstance(config, EncoderDecoderConfig):
        return Pages(layers, blocks, heads, head_dim, dtype, device, scale=1.0)
    paged = device.type == "cuda" and dtype != torch.int8 and head_dim >= SMALLEST_HEAD
    if paged and (blocks + 1) * PAGE * heads[1] * head_dim >= _MOST_NUMBERS:
        paged = False
        _log.warning("A cache of %d blocks is too large for paged attention; copies serve, slower.", blocks)
    if paged:
        width = min(blocks, -(-most // BLOCK))
        return FlatPages(layers, blocks, heads, head_dim, dtype, device, config.sliding_window, width=width)
    return Pages(layers, blocks, heads, head_dim, dtype, device, config.sliding_window)


def _shape(config: Config) -> tuple[int, tuple[int, int], int, int]:
    """Layers, query and key-value heads, head size, and most positions of a decoder."""
    if isinstance(config, EncoderDecoderConfig):
        return config.num_decoder_layers, (config.num_heads, config.num_heads), config.d_kv, POSITIONS
    heads = (config.num_attention_heads, config.num_key_value_heads)
    return config.num_hidden_layers, heads, config.head_dim, config.max_position_embeddings


class StepContext(NativeContext):
    """The attention context of one step over ``pages``."""

    def __init__(self, pages: Pages, work: Sequence[Work]):
        self._pages, self._layout = pages, Layout(step_items(work), pages.device)

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int64 [1, N]."""
        return self._layout.positions_N.unsqueeze(0)

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[1, N, H, D]; stores the new keys and values first."""
        return self._pages.attend(layer, self._layout, q_BTHD[0], k_BTGD[0], v_BTGD[0]).unsqueeze(0)

    def native(self, q_NHD: Tensor) -> NativeAttention | None:
        """See :class:`weft.ops.cache.NativeContext`."""
        return self._pages.native(self._layout, q_NHD)


class SourceContext:
    """Sources that are read in one step, with the encoder's bias (:class:`weft.ops.cache.ReadingContext`).

    While the encoder works, the blocks of a source hold the keys and values of its layer under way, in the
    place of the decoder's first; at the end they hold what the decoder sees.
    """

    def __init__(self, pages: Pages, work: Sequence[Work], bias: Tensor):
        items, row = [], 0
        for item in work:
            items.append(Item(row, item.source, 0, item.sequence.source_blocks, seen=item.source))
            row += item.source
        self._pages, self._layout = pages, Layout(items, pages.device, bias=bias)

    def attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        """As the protocol says."""
        return self._pages.attend(0, self._layout, q_NHD, k_NHD, v_NHD)

    def keep(self, layer: int, k_NHD: Tensor, v_NHD: Tensor) -> None:
        """As the protocol says."""
        self._pages.store(layer, self._layout, k_NHD, v_NHD)


class WritingStep:
    """One step of a decoder with sources (:class:`weft.ops.cache.WritingContext`), with its bias."""

    def __init__(self, pages: Pages, work: Sequence[Work], bias: Tensor):
        own = step_items(work)
        owners = [item.sequence for item in work for _ in item.sequence.lines]
        sources = [
            Item(item.first, item.count, 0, owner.source_blocks, seen=len(owner.source))
            for item, owner in zip(own, owners, strict=True)
        ]
        self._pages, self._own = pages, Layout(own, pages.device, bias=bias)
        self._sources = Layout(sources, pages.device, stored=False)

    def attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        """As the protocol says."""
        return self._pages.attend(layer, self._own, q_NHD, k_NHD, v_NHD)

    def attend_source(self, layer: int, q_NHD: Tensor) -> Tensor:
        """As the protocol says."""
        return self._pages.attend(layer, self._sources, q_NHD)


def step_items(work: Sequence[Work]) -> list[Item]:
    """The rows of each sequence, or of each of its beams, one after the other."""
    items, row = [], 0
    for item in work:
        count = item.tokens + len(item.drafts)
        for line in item.sequence.lines:
            items.append(Item(row, count, item.sequence.cached, line.blocks))
            row += count
    return items
