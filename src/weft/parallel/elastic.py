"""A plan for another number of processes: one size follows, the others stay.

The rows of a step are counted over all ranks, so fewer data ranks take more micro-batches each: the batch,
and with it the position in the data, stay what they were.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from weft.core.errors import ConfigError
from weft.parallel.plan import Plan

Elastic = Literal["none", "dp", "fsdp"]
"""Only these sizes can follow: they change which rank reads which rows, and how state is cut, no more."""


def fitted(plan: Plan, size: int, elastic: Elastic) -> Plan:
    """``plan`` with its ``elastic`` size such that it has ``size`` processes.

    Unchanged when it has them already or nothing is elastic (the mesh then refuses it). ConfigError when the
    fixed sizes do not divide ``size``.
    """
    if elastic == "none" or plan.size == size:
        return plan
    fixed = plan.size // getattr(plan, elastic)
    if size % fixed:
        raise ConfigError(
            f"train.elastic = {elastic!r} cannot fit the plan {plan} to {size} processes: its other sizes "
            f"need a multiple of {fixed}; start {max(size // fixed, 1) * fixed}."
        )
    return dataclasses.replace(plan, **{elastic: size // fixed})
