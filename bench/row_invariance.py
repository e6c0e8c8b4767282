"""Which matrix products give a row the same bits whatever other rows there are.

    python bench/row_invariance.py [--threads 2]

For PyTorch's product, oneDNN's with prepacked weights, and ours (weft.ops.linear), in fp32 and bf16: 131 rows
at once against the same rows in pieces. Printed are the sizes of pieces that differ (rows of the last,
smaller piece in brackets).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
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
