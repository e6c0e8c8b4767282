"""Attention over the paged cache alone: microseconds of wall time, least of the rounds.

    python bench/paged_attention.py [--threads 1] [--rounds 15]

To compare two versions, run it in turn with `PYTHONPATH` at the `src` of each. Results must agree with
PyTorch's attention over the same keys, copied out of their blocks, within what bf16 allows; else it exits
with 1.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from weft.ops.page_layout import PAGE, Item, Layout
from weft.ops.paged import Pages, attend_gathered

CASES = {
    "prompt of 512, 8 heads of 64": (8, 8, 64, [(0, 512)]),
    "prompt of 512, 16 heads over 8 of 128": (16, 8, 128, [(0, 512)]),
    "16 tokens after 500, 8 heads of 64": (8, 8, 64, [(500, 1)] * 16),
    "16 tokens after 500, 16 heads over 8 of 128": (16, 8, 128, [(500, 1)] * 16),
}
"""Query heads, key-value heads, head size, and (past, rows) of each sequence."""
AGREEMENT = 0.02
"""Largest relative error that is put down to rounding."""


def least(rounds: int, function: Callable[[], Tensor]) -> float:
    """Microseconds of the fastest call."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1e6)
    return min(times)


def layout_of(stretches: list[tuple[int, int]]) -> tuple[Layout, int, int]:
    """The layout of these sequences, its rows and its blocks."""
    items, rows, blocks = [], 0, 0
    for past, count in stretches:
        needed = -(-(past + count) // PAGE)
        items.append(Item(rows, count, past, range(blocks, blocks + needed)))
        rows, blocks = rows + count, blocks + needed
    return Layout(items, torch.device("cpu")), rows, blocks


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name, (heads, groups, size, stretches) in CASES.items():
        layout, rows, blocks = layout_of(stretches)
        pages = Pages(1, blocks, (heads, groups), size, torch.bfloat16, torch.device("cpu"))
        noise = torch.Generator().manual_seed(0)
        for tensor in (*pages.keys, *pages.values):
            tensor.copy_(torch.randn(tensor.shape, generator=noise))
        q, k, v = (torch.randn(rows, n, size, generator=noise).bfloat16() for n in (heads, groups, groups))
        ours = functools.partial(pages.attend, 0, layout, q, k, v)
        found, expected = ours().float(), attend_gathered(pages, 0, layout, q).float()
        error = float((found - expected).norm() / expected.norm())
        print(f"{name}: {least(given.rounds, ours):,.0f} µs; differs from PyTorch by {error:.1e}")
        if not error < AGREEMENT:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
