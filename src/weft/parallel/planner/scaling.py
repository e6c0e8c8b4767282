"""How a job grows with the number of devices: simulated, never run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weft.parallel.planner.estimate import Prediction, World
from weft.parallel.planner.job import Job
from weft.parallel.planner.search import search


@dataclass(frozen=True)
class Point:
    """The best layout on so many devices: simulated, with rows in proportion to them."""

    devices: int
    prediction: Prediction


def scaling(job: Job, world: World, most: int) -> list[Point]:
    """Weak scaling by powers of two from the cluster's size to ``most`` devices. Simulated, not run."""
    points = []
    cluster = world.cluster
    while cluster.size <= most:
        rows = job.rows * cluster.size // world.cluster.size
        larger = replace(job, rows=rows)
        found = search(larger, World.published(cluster, larger), top=1, narrow=True)
        if found.ranked:
            points.append(Point(cluster.size, found.ranked[0]))
        cluster = replace(cluster, nodes=2 * cluster.nodes)
    return points
