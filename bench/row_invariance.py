"""Which matrix products give a row the same bits whatever other rows there are.

    python bench/row_invariance.py [--threads 2] [--speed]

For PyTorch's product, oneDNN's with prepacked weights, and ours (weft.ops.linear), in fp32 and bf16: 131 rows
at once against the same rows in pieces. Printed are the sizes of pieces that differ (rows of the last,
smaller piece in brackets). --speed prints instead what the fp32 products do, ours and PyTorch's in turn: the
most GFLOP/s of 60 rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.linear import linear_rows

ROWS = 131
PIECES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 32, 33, 64, 96)
SHAPES = ((32, 16), (96, 256), (512, 1536), (1024, 1024), (1536, 1024), (4096, 1024), (4864, 896))


def differing(product: Callable[[Tensor], Tensor], x: Tensor) -> list[str]:
    """The sizes of pieces that change any bit."""
    whole = product(x)
    return [
        f"{size} ({ROWS % size})"
        for size in PIECES
        if not torch.equal(torch.cat([product(piece) for piece in torch.split(x, size)]), whole)
    ]


def speed() -> None:
    """The rates of both, after a comparison of what they computed."""
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 4, 16, 64, 300):
        for inputs, outputs in ((256, 1024), (1024, 256), (256, 8192)):
            x = torch.randn(rows, inputs, generator=generator)
            weight = torch.randn(outputs, inputs, generator=generator)
            ours = partial(linear_rows, x, weight, None)
            products: dict[str, Callable[[], Tensor]] = {
                "ours": ours,
                "F.linear": partial(F.linear, x, weight),
            }
            torch.testing.assert_close(*(product() for product in products.values()), rtol=1e-4, atol=1e-3)
            best = dict.fromkeys(products, float("inf"))
            for _ in range(60):
                for name, product in products.items():
                    began = time.perf_counter()
                    product()
                    best[name] = min(best[name], time.perf_counter() - began)
            work = 2e-9 * rows * inputs * outputs
            rates = "  ".join(f"{name} {work / seconds:5.1f}" for name, seconds in best.items())
            print(f"{rows:3} rows  {inputs:4} -> {outputs:4}  {rates} GFLOP/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.speed:
        speed()
        return
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for inputs, outputs in SHAPES:
            x = torch.randn(ROWS, inputs, generator=generator).to(dtype)
            weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
            products: dict[str, Callable[[Tensor], Tensor]] = {
                "F.linear": lambda x, w=weight: F.linear(x, w),
                "oneDNN, packed": lambda x, w=packed: torch.ops.mkldnn._linear_pointwise(
                    x, w, None, "none", [], ""
                ),
                "weft.ops.linear": lambda x, w=weight: linear_rows(x, w, None),
            }
            for name, product in products.items():
                wrong = differing(product, x)
                shape = f"{str(dtype)[6:]:9} {inputs:5} -> {outputs:4}"
                print(f"{shape}  {name:16} {', '.join(wrong) or 'same bits'}")


if __name__ == "__main__":
    main()
