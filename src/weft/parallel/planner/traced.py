"""Activations from a trace of real blocks on fake tensors, in the shape that the formulas give them.

Two traces, of one and of two blocks, tell what a block adds; so 126 blocks cost no more than two. What a
trace in one process cannot see is corrected by formula: rows between tensor-parallel regions are cut over
tp, and fsdp keeps no cast copies of the weights.
"""

from __future__ import annotations

import dataclasses
import functools

from weft.parallel.plan import Plan
from weft.parallel.planner import activations
from weft.parallel.planner.activations import Kept
from weft.parallel.planner.local import Local
from weft.parallel.planner.memory import Style
from weft.parallel.planner.trace import trace_blocks


def kept(local: Local, how: Style) -> Kept:
    """What :func:`weft.parallel.planner.activations.kept` gives, traced."""
    if local.config.num_experts:
        # Where rows go depends on numbers, which fake tensors have none of.
        return activations.kept(local, how.fused, how.masked)
    plan = Plan(tp=local.plan.tp, cp=local.plan.cp, recompute=local.plan.recompute)
    job = dataclasses.replace(local.job, rows=1, steps=None, micro_rows=None)
    block, moment = _two(Local(job, plan, local.micro_rows), how.fused, how.masked)
    foretold = activations.kept(local, how.fused, how.masked)
    block += activations.spread(local, how.fused)
    return dataclasses.replace(foretold, block=max(block, 0.0), moment=max(moment, 0.0))


@functools.lru_cache(maxsize=256)
def _two(local: Local, fused: bool, masked: bool) -> tuple[float, float]:
    one, two = (
        trace_blocks(local, blocks, False, False, fused=fused, native_attention=not masked)
        for blocks in (1, 2)
    )
    return float(two.kept - one.kept), float(two.peak - two.kept)
