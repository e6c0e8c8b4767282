"""How much of a message hides behind computation that does not wait for it."""

from __future__ import annotations

from weft.parallel.planner.hardware import Cluster


def exposed(communication: float, compute: float, cluster: Cluster) -> float:
    """Seconds that remain visible.

    ``overlap`` of the cluster is the share of the computation's time in which messages can run beside it;
    messages take units and memory bandwidth from it, so what hides still costs ``slowdown - 1`` of its time.
    """
    hidden = min(communication, cluster.overlap * compute)
    return communication - hidden + (cluster.slowdown - 1.0) * hidden
