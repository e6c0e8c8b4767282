"""A bidirectional LSTM over packed rows: documents of like length together, against PyTorch's way.

    python bench/bilstm.py

Forward and backward of two layers, width 320, over rows of documents of three kinds of lengths, in turn;
processor time, medians of rounds, and the largest difference of states and gradients.
"""

from __future__ import annotations

import random
import statistics
import time

import torch
from torch import Tensor

from weft.models.cells import cells, states, states_plain
from weft.ops.both_ways import BothWays

ROWS, LENGTH, WIDTH, ROUNDS = 32, 128, 320, 7
KINDS = {"5 to 30": (5, 30), "10 to 60": (10, 60), "60 to 128": (60, 128)}


def starts(chance: random.Random, shortest: int, longest: int) -> BothWays:
    rows = []
    for _ in range(ROWS):
        row: list[int] = []
        while len(row) < LENGTH:
            row += [len(row)] * min(LENGTH - len(row), chance.randint(shortest, longest))
        rows.append(row)
    return BothWays(torch.tensor(rows, dtype=torch.int32))


def main() -> None:
    chance = random.Random(0)
    torch.manual_seed(0)
    rnn = cells("lstm", WIDTH, WIDTH, 2, 0.0)
    print(f"{torch.get_num_threads()} threads; tokens/s of processor time")
    for name, lengths in KINDS.items():
        seconds: dict[str, list[float]] = {"packed sequences": [], "like lengths": []}
        apart = 0.0
        for _ in range(ROUNDS):
            context = starts(chance, *lengths)
            x = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
            found: list[list[Tensor]] = []
            for way, body in zip(seconds, (states_plain, states), strict=True):
                rnn.zero_grad()
                x.grad = None
                begun = time.process_time()
                seen = body(rnn, x, context)
                seen.sin().sum().backward()
                seconds[way].append(time.process_time() - begun)
                assert x.grad is not None
                gradients = [p.grad.clone() for p in rnn.parameters() if p.grad is not None]
                found.append([seen.detach(), x.grad.clone(), *gradients])
            differences = ((a - b).abs().max() / a.abs().max() for a, b in zip(*found, strict=True))
            apart = max(apart, *map(float, differences))
        middle = {way: statistics.median(times[1:]) for way, times in seconds.items()}
        figures = ", ".join(f"{way} {ROWS * LENGTH / value:,.0f}" for way, value in middle.items())
        ratio = middle["packed sequences"] / middle["like lengths"]
        print(f"documents of {name} tokens: {figures}: {ratio:.2f}x, apart at most {apart:.1e}")


if __name__ == "__main__":
    main()
