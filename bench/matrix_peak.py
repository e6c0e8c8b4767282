"""Print the best bf16 matrix product of this machine in FLOP/s: python matrix_peak.py THREADS.

Several large shapes, each repeated; the fastest single product counts. torch.mm of prepared bf16 matrices
is what all three systems end in, so the share of this peak says how much of a step is anything else.
"""

from __future__ import annotations

import sys
import time

import torch

SHAPES = ((2048, 2048, 2048), (4096, 2048, 2048), (4096, 4096, 1024), (4096, 4096, 4096), (4096, 512, 8192))
REPEATS = 8


def measure(threads: int) -> float:
    """FLOP/s of the best of REPEATS products of each of SHAPES (M, K, N)."""
    torch.set_num_threads(threads)
    best = 0.0
    for m, k, n in SHAPES:
        a, b = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
        out = torch.empty(m, n, dtype=torch.bfloat16)
        for _ in range(REPEATS):
            began = time.perf_counter()
            torch.mm(a, b.t(), out=out)
            best = max(best, 2.0 * m * k * n / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
