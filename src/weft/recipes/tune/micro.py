"""The largest micro-batch that fits, and what each size gives: trials that double the rows.

A size is tried only when the memory of the two before it, continued in a line, foretells that it fits.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from weft.core.hardware import peak_memory, usable_memory
from weft.parallel.model import ParallelModel
from weft.recipes.tune.workbench import Workbench

SHARE = 0.9
"""Of the memory of the machine may be used."""
ENOUGH = 1.03
"""Twice the rows must be so much faster, or the smaller size serves as well."""


@dataclass(frozen=True)
class MicroTrial:
    """Rows of a micro-batch, tokens a second of forward and backward, bytes of memory at most."""

    rows: int
    tokens_per_second: float
    memory_bytes: int


@dataclass(frozen=True)
class MicroChoice:
    """The trials, the ``largest`` rows that fit and the ``chosen`` ones, and why no larger was tried."""

    trials: tuple[MicroTrial, ...]
    largest: int
    chosen: int
    reason: str


def largest_micro(bench: Workbench, say: Callable[[str], None], most_rows: int = 1024) -> MicroChoice:
    """Try 1, 2, 4, … rows until memory or ``most_rows`` ends it.

    Chosen is the smallest size after which doubling gains less than 3 %: more rows would cost memory
    for nothing.
    """
    limit = SHARE * _memory(bench.device)
    model = bench.model()
    trials: list[MicroTrial] = []
    rows, reason = 1, f"{most_rows} rows are enough to try"
    while rows <= most_rows:
        foretold = _foretold(trials)
        if foretold > limit:
            reason = (
                f"{rows} rows would need about {foretold / 1e9:.1f} GB of the {limit / 1e9:.1f} GB "
                "that may be used"
            )
            break
        try:
            trials.append(_try(bench, model, rows))
        except torch.OutOfMemoryError:
            reason = f"{rows} rows ran out of memory"
            break
        last = trials[-1]
        say(f"  {rows} rows: {last.tokens_per_second:,.0f} tokens/s, {last.memory_bytes / 1e9:.2f} GB")
        rows *= 2
    assert trials
    return MicroChoice(tuple(trials), trials[-1].rows, _choose(trials), reason)


def _choose(trials: list[MicroTrial]) -> int:
    best = max(trial.tokens_per_second for trial in trials)
    return next(trial.rows for trial in trials if trial.tokens_per_second * ENOUGH >= best)


def _try(bench: Workbench, model: ParallelModel, rows: int) -> MicroTrial:
    batches = bench.batches(0, rows, rows)
    scale = 1.0 / max(1, batches[0].target_count)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    best = float("inf")
    # The first round takes the memory and warms caches up.
    for _ in range(3):
        began = time.perf_counter()
        model.accumulate(bench.objective, batches, scale, bench.arithmetic.dtype)
        best = min(best, time.perf_counter() - began)
    memory = _used(bench.device)
    model.module.zero_grad(set_to_none=True)
    gc.collect()
    return MicroTrial(rows, rows * bench.length / best, memory)


def _foretold(trials: list[MicroTrial]) -> float:
    """Bytes that twice the rows of the last trial would take."""
    if not trials:
        return 0.0
    last = trials[-1]
    if len(trials) == 1:
        return 2.0 * last.memory_bytes
    before = trials[-2]
    a_row = max(0.0, (last.memory_bytes - before.memory_bytes) / (last.rows - before.rows))
    return last.memory_bytes + last.rows * a_row


def _used(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return usable_memory()
