"""Seconds of collectives, from latency and bandwidth of the links that a group of ranks spans.

Rings over ``n`` ranks move ``(n - 1) / n`` of the data through every link (Thakur et al. 2005); where a
group spans nodes, its ranks of a node work side by side, each on its own adapter, and the slower of the
two levels counts. Measured fits (:class:`Fit`) take the place of the formulas where a machine was
calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from weft.parallel.plan import SIZES, Plan
from weft.parallel.planner.hardware import Cluster

KINDS = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "exchange")


@dataclass(frozen=True)
class Fit:
    """Measured: ``seconds = latency + bytes * per_byte`` for a group of ``ranks``."""

    kind: str
    ranks: int
    latency: float
    per_byte: float


@dataclass(frozen=True)
class Group:
    """``ranks`` processes, ``local`` of them on each of the nodes that the group spans."""

    ranks: int
    local: int

    @property
    def nodes(self) -> int:
        """Nodes spanned."""
        return self.ranks // self.local


def group(plan: Plan, cluster: Cluster, names: tuple[str, ...]) -> Group:
    """The group along the dimensions of the mesh from the first to the last name; tp is the innermost."""
    first, last = SIZES.index(names[0]), SIZES.index(names[-1])
    ranks = math.prod(getattr(plan, name) for name in SIZES[first : last + 1])
    inner = SIZES[last + 1 :]
    stride = math.prod(getattr(plan, name) for name in inner)
    local = max(1, min(ranks, cluster.per_node // stride))
    # A group that does not divide the node evenly is counted as its common part.
    return Group(ranks, math.gcd(ranks, local) if ranks % local else local)


class Network:
    """Answers how long a collective takes on a cluster."""

    def __init__(self, cluster: Cluster, fits: tuple[Fit, ...] = ()):
        self.cluster = cluster
        self._fits: Mapping[tuple[str, int], Fit] = {(fit.kind, fit.ranks): fit for fit in fits}

    def seconds(self, kind: str, size: float, group: Group) -> float:
        """``size``: bytes of the whole buffer (of what one rank has for the last two kinds)."""
        if group.ranks == 1 or size <= 0:
            return 0.0
        fit = self._fit(kind, group.ranks)
        if fit is not None:
            return fit.latency + size * fit.per_byte
        return self._formula(kind, size, group)

    def _fit(self, kind: str, ranks: int) -> Fit | None:
        sizes = [n for known, n in self._fits if known == kind]
        if not sizes:
            return None
        near = min(sizes, key=lambda n: abs(n - ranks))
        fit, growth = self._fits[kind, near], ranks / near
        return fit if near == ranks else Fit(kind, ranks, fit.latency * growth, fit.per_byte * growth)

    def _formula(self, kind: str, size: float, group: Group) -> float:
        inside, between = self.cluster.inside, self.cluster.between
        if kind == "exchange":
            link = between if group.local == 1 else inside
            return link.latency + size / link.bandwidth
        passes = 2.0 if kind == "all_reduce" else 1.0
        local = size * (group.local - 1) / group.local / inside.bandwidth
        if kind == "all_to_all":
            local = size * (group.local - 1) / group.ranks / inside.bandwidth
            remote = size * (group.ranks - group.local) / group.ranks / between.bandwidth
        else:
            adapters = between.bandwidth * group.local
            remote = size * (group.nodes - 1) / group.nodes / adapters if group.nodes > 1 else 0.0
        return passes * max(local, remote) + self._latency(kind, group)

    def _latency(self, kind: str, group: Group) -> float:
        inside, between = self.cluster.inside.latency, self.cluster.between.latency
        if kind == "all_reduce":
            # A tree, as NCCL takes for many ranks (Sanders et al. 2009).
            return 2 * (math.log2(group.local) * inside + math.log2(group.nodes) * between)
        if kind == "all_to_all":
            return inside + (between if group.nodes > 1 else 0.0)
        return (group.local - 1) * inside + (group.nodes - 1) * between
