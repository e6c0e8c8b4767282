"""Paged attention for GPUs through PyTorch's flex_attention: it reads keys and values where they lie.

A block table is a list of sparse blocks of a :class:`BlockMask`: the pages that rows see are those that the
kernel visits, and the mask takes from them what lies behind a row, or before its window.

Dimensions: Z batches of S rows, in tiles of T rows (S / T of them, one where S is less); W entries of a block
table, L positions of the cache, H query heads, G key-value heads (H a multiple of G), D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.ops.compiled import compiled
from weft.ops.flat_pages import FlatPages
from weft.ops.page_layout import PAGE

TILE = 64
"""Rows of a tile of a prompt: those of one sequence that visit the same pages."""

SMALLEST_HEAD = 16
"""Matrix units of GPUs take no less at once."""

LONE = 128
"""The height of the tile of a row that is alone: flex_attention's own, of which its tiles are parts."""

_LONE_OPTIONS = {"BLOCK_N": PAGE, "num_stages": 3}
_TILE_OPTIONS = {"BLOCK_M": TILE, "BLOCK_N": PAGE, "num_warps": 4, "FORCE_USE_FLEX_ATTENTION": True}
"""What the kernels need to know: they cannot take more keys at once than a page holds, and the kernel for few
rows, which splits the keys of a row among processors, has no tiles of 64 rows."""


@dataclass(frozen=True)
class Tiles:
    """Rows that are attended to in one call.

    ``positions`` int32 [Z, S] in their sequences (-1: a place without a row); ``tables`` int32 [Z, S / T, W]
    are pages to visit, the first ``counts`` int32 [Z, S / T] of them; ``height`` is T.
    """

    positions: Tensor
    tables: Tensor
    counts: Tensor
    height: int

    @staticmethod
    def of(positions_ZS: Tensor, tables: Tensor, height: int, window: int | None) -> Tiles:
        """Tiles of rows whose sequences have the int32 block ``tables`` [Z, S / T, W].

        The rows of a tile, where there are any, stand in the order of their positions, without gaps.
        """
        rows = positions_ZS.view(*tables.shape[:2], -1)
        counts = rows.amax(-1) // PAGE + 1
        if window is not None:
            skipped = (rows[..., 0] - window + 1).clamp(min=0) // PAGE
            entry_W = torch.arange(tables.shape[-1], device=tables.device)
            entries = (skipped.unsqueeze(-1) + entry_W).clamp(max=tables.shape[-1] - 1)
            tables, counts = tables.gather(-1, entries.long()), counts - skipped
        # Fresh, since a view of one row has strides of its own, for which all would be compiled again.
        positions_ZS, tables = (
            x.clone(memory_format=torch.contiguous_format) for x in (positions_ZS, tables)
        )
        return Tiles(positions_ZS, tables, counts.int(), height)


def attend(pages: FlatPages, layer: int, tiles: Tiles, q_ZHSD: Tensor) -> Tensor:
    """[Z, H, S, D]: each row over its own position and those before it, within the window.

    ``starts`` of the pages must be those of this step. Where there is no row, anything comes. Compiled for
    each Z and S, and raises what the compiler raises.
    """
    keys, values = pages.all_rows(layer)
    how = (tiles.height, pages.window, pages.scale)
    return _compiled()(q_ZHSD, keys, values, tiles.positions, tiles.tables, tiles.counts, pages.starts, how)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    # Here, since a processor that never needs it would wait for it at each start.
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    def mixed(
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        positions: Tensor,
        tables: Tensor,
        counts: Tensor,
        starts: Tensor,
        how: tuple[int, int | None, float],
    ) -> Tensor:
        height, window, scale = how

        def seen(batch: Tensor, head: Tensor, row: Tensor, place: Tensor) -> Tensor:
            key = starts[place // PAGE] + place % PAGE
            query = positions[batch, row]
            before = key <= query
            return before if window is None else before & (key > query - window)

        mask = BlockMask.from_kv_blocks(
            counts.unsqueeze(1),
            tables.unsqueeze(1),
            BLOCK_SIZE=(height, PAGE),
            mask_mod=seen,
            seq_lengths=(q.shape[2], keys.shape[2]),
            compute_q_blocks=False,  # the backward pass alone needs them
        )
        options: Any = _LONE_OPTIONS if height == LONE else _TILE_OPTIONS
        grouped = q.shape[1] != keys.shape[1]
        out: Any = flex_attention(
            q, keys, values, block_mask=mask, scale=scale, enable_gqa=grouped, kernel_options=options
        )
        found: Tensor = out
        return found

    return compiled(mixed, dynamic=False)
