"""Products with packed weights beside PyTorch's: microseconds of processor time.

    python bench/packed_products.py [--shapes 4096x1024,1024x3072] [--rows 1,4,8,16,64,192] [--threads 1]

Columns: `F.linear` in bf16; oneDNN with prepacked bf16 (`mkldnn._linear_pointwise`); PyTorch with int8
(`torch._int_mm`, without scales and without making the activations int8, which ours has); Weft.
16 weights of a shape take turns, so that they come from memory as they do in a model. Medians. Processor
time of one thread is steadier on a shared machine than wall time; with more threads the time of all is
shown, waiting included.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from weft.ops.packed import Format, pack
from weft.ops.quantise import quantise_rows
from weft.ops.step import Heads, PackedFeed, PackedLayer, Steps

WEIGHTS = 16


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="4096x1024,1024x3072", help="outputs x inputs")
    parser.add_argument("--rows", default="1,4,8,16,64,192")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    return parser.parse_args()


def steps_for(width: int) -> Steps:
    """A decoder that lends its buffers to products of up to ``width`` inputs."""
    square = pack([torch.zeros(64, width)], Format.FLOAT32)
    feed = PackedFeed(square, square)
    layer = PackedLayer(square, square, feed, torch.ones(width), torch.ones(width))
    return Steps([layer], torch.ones(width), square, Heads(2, 2, 32), 1e-6, torch.float32)


def calls(outputs: int, inputs: int, rows: int) -> dict[str, Callable[[int], object]]:
    """What is timed: each takes the number of the weight."""
    weights = [torch.randn(outputs, inputs) * 0.02 for _ in range(WEIGHTS)]
    x, steps = torch.randn(rows, inputs), steps_for(inputs)
    x_bf16, x_int8 = x.bfloat16(), quantise_rows(x)[0]
    bf16 = [w.bfloat16() for w in weights]
    ordered = [torch.ops.mkldnn._reorder_linear_weight(w, rows) for w in bf16]
    whole = [quantise_rows(w)[0] for w in weights]

    found: dict[str, Callable[[int], object]] = {
        "F.linear bf16": lambda i: F.linear(x_bf16, bf16[i]),
        "oneDNN bf16": lambda i: torch.ops.mkldnn._linear_pointwise(x_bf16, ordered[i], None, "none", [], ""),
        "_int_mm": lambda i: torch._int_mm(x_int8, whole[i].t()),
    }
    for form in Format:
        packed = [pack([w], form) for w in weights]
        found[form.name.lower()] = lambda i, packed=packed: steps.product(packed[i], x)  # type: ignore[misc]
    return found


def microseconds(call: Callable[[int], object], repeats: int) -> float:
    turns, times = itertools.cycle(range(WEIGHTS)), []
    call(0)
    for _ in range(repeats):
        number, begun = next(turns), time.process_time()
        call(number)
        times.append(time.process_time() - begun)
    return statistics.median(times) * 1e6


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    for shape in given.shapes.split(","):
        outputs, inputs = map(int, shape.split("x"))
        for rows in map(int, given.rows.split(",")):
            timed = {
                name: microseconds(call, given.repeats) for name, call in calls(outputs, inputs, rows).items()
            }
            rate = 2 * rows * outputs * inputs / timed["int8"] / 1e3
            line = "  ".join(f"{name} {value:,.0f}" for name, value in timed.items())
            print(f"{shape} rows {rows:>3}:  {line}   int8 {rate:,.0f} Gop/s", flush=True)


if __name__ == "__main__":
    main()
