"""Sequences in flat pages for tests, and attention over tiles as plainly as it can be written."""

from __future__ import annotations

import torch

from weft.ops.flat_pages import FlatPages
from weft.ops.page_layout import PAGE, Item, Layout

CPU = torch.device("cpu")


def filled(heads, head_dim, lengths, window=None, blocks=24, dtype=torch.float32, device=CPU, seed=0):
    """Pages of one layer, all NaN but for sequences of these lengths, and the blocks of each."""
    generator = torch.Generator().manual_seed(seed)
    # A processor's flex_attention wants a table that could hold the whole cache.
    pages = FlatPages(1, blocks, heads, head_dim, dtype, device, window, width=blocks + 1)
    for tensor in (*pages.keys, *pages.values):
        tensor[: pages.scratch].fill_(float("nan"))
    free = torch.randperm(blocks, generator=generator).tolist()
    tables = []
    for length in lengths:
        tables.append([free.pop() for _ in range(-(-length // PAGE))])
        k, v = (torch.randn(length, heads[1], head_dim, generator=generator) for _ in range(2))
        layout = Layout([Item(0, length, 0, tables[-1])], device)
        # What is behind the last position of a block can be no NaN: see FlatPages.
        pages.values[0][tables[-1]] = 0
        pages.store(0, layout, k.to(device, dtype), v.to(device, dtype))
    return pages, tables


def attend_tiles_plain(pages, layer, tiles, q_ZHSD):
    """What weft.ops.flex.attend must give: one row after the other, over the pages of its tile."""
    out = torch.zeros_like(q_ZHSD)
    Z, _, S, _ = q_ZHSD.shape
    per_tile = S // tiles.tables.shape[1]
    for z in range(Z):
        for row in range(S):
            position, tile = int(tiles.positions[z, row]), row // per_tile
            if position < 0:
                continue
            visited = tiles.tables[z, tile, : int(tiles.counts[z, tile])].tolist()
            keys, values = pages.gather(layer, torch.tensor(visited))
            where = torch.cat([pages.starts[block] + torch.arange(PAGE) for block in visited])
            seen = where <= position
            if pages.window is not None:
                seen &= where > position - pages.window
            keys, values = (x[seen].repeat_interleave(pages.H // pages.G, 1) for x in (keys, values))
            scores = torch.einsum("hd,lhd->hl", q_ZHSD[z, :, row], keys) * pages.scale
            out[z, :, row] = torch.einsum("hl,lhd->hd", scores.softmax(-1), values)
    return out
