"""What would make a request fit: the smallest change first, found by trying."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from weft.core.errors import ConfigError
from weft.core.page import Words
from weft.parallel.plan import Plan
from weft.parallel.planner.estimate import World, estimate
from weft.parallel.planner.hardware import GIB
from weft.parallel.planner.job import Job
from weft.parallel.planner.search import FILL, search

MOST_NODES = 4096


@dataclass(frozen=True)
class Change:
    """``what`` in words, and the layout that then runs."""

    what: Words
    plan: Plan
    micro_rows: int


def of_plan(job: Job, plan: Plan, micro_rows: int, world: World) -> Change | None:
    """The smallest change of one layout that lets it fit on the same machine; None if there is none.

    Tried in turn, first alone and then in pairs: a smaller micro-batch, selective and full recomputation,
    shards in place of replicas, 1F1B in place of GPipe, offload.
    """
    singles = list(_of_plan(plan, micro_rows))
    for what, changed, rows in singles:
        if _fits(job, changed, rows, world):
            return Change(what, changed, rows)
    for what, changed, rows in singles:
        for more, twice, fewer in _of_plan(changed, rows):
            if _fits(job, twice, fewer, world):
                both = Words(f"{what.en} and {more.en}", f"{what.zh},并且{more.zh}")
                return Change(both, twice, fewer)
    return None


def of_job(job: Job, world: World) -> Change | None:
    """The smallest change of the job or of the machine for which any layout fits.

    Tried in turn: shorter rows by halves, then more devices by doubling.
    """
    length = job.length // 2
    while length >= max(256, job.length // 8):
        shorter = dataclasses.replace(job, length=length, rows=job.rows * job.length // length)
        found = search(shorter, world, top=1)
        if found.ranked:
            words = Words(
                f"set data.sequence_length = {length} (the batch keeps its tokens)",
                f"把 data.sequence_length 设为 {length}(每步的词元数不变)",
            )
            return Change(words, found.ranked[0].plan, found.ranked[0].micro_rows)
        length //= 2
    return _more_devices(job, world)


def _more_devices(job: Job, world: World) -> Change | None:
    cluster = world.cluster
    while not cluster.cores and cluster.nodes < MOST_NODES:
        cluster = (
            dataclasses.replace(cluster, nodes=2 * cluster.nodes)
            if cluster.per_node >= 8
            else dataclasses.replace(cluster, per_node=2 * cluster.per_node)
        )
        # A batch too small for so many ranks grows with them.
        grown = dataclasses.replace(job, rows=-(-job.rows // cluster.size) * cluster.size)
        for attempt in (job, grown):
            found = search(attempt, World.published(cluster, attempt), top=1)
            if found.ranked:
                what = f"{cluster.size} x {cluster.device.name}"
                words = Words(f"use {what}", f"改用 {what}")
                return Change(words, found.ranked[0].plan, found.ranked[0].micro_rows)
    return None


def _of_plan(plan: Plan, micro_rows: int) -> Iterator[tuple[Words, Plan, int]]:
    rows = micro_rows // 2
    while rows >= 1:
        yield Words(f"train.micro_rows = {rows}", f"train.micro_rows = {rows}"), plan, rows
        rows //= 2
    for recompute in ("selective", "full")[0 if plan.recompute == "none" else 1 :]:
        if recompute != plan.recompute:
            changed = dataclasses.replace(plan, recompute=recompute)  # type: ignore[arg-type]
            yield _set("recompute", recompute), changed, micro_rows
    if plan.dp > 1:
        moved = dataclasses.replace(plan, dp=1, fsdp=plan.fsdp * plan.dp)
        words = Words(f"fsdp={moved.fsdp} instead of dp={plan.dp}", f"用 fsdp={moved.fsdp} 代替 dp={plan.dp}")
        yield words, moved, micro_rows
    if plan.pp > 1 and plan.schedule == "gpipe":
        yield _set("schedule", "1f1b"), dataclasses.replace(plan, schedule="1f1b"), micro_rows
    if plan.fsdp > 1 and not plan.offload:
        yield _set("offload", "true"), dataclasses.replace(plan, offload=True), micro_rows


def _set(name: str, value: str) -> Words:
    return Words(f"parallel.{name} = {value}", f"parallel.{name} = {value}")


def _fits(job: Job, plan: Plan, micro_rows: int, world: World) -> bool:
    cluster = world.cluster
    if plan.offload and cluster.cores:
        return False
    try:
        plan.check(job.config, rows=job.rows, micro_rows=micro_rows, length=job.length)
        memory = estimate(job, plan, micro_rows, world, simulate=False).memory
    except ConfigError:
        return False
    on_host = memory.host * cluster.per_node
    return memory.total <= FILL * cluster.memory and on_host <= FILL * cluster.host_memory


def shortage(total: float, world: World) -> Words:
    """How much is missing, in words."""
    missing = (total - FILL * world.cluster.memory) / GIB
    have = FILL * world.cluster.memory / GIB
    return Words(
        f"needs {total / GIB:.1f} GiB a rank, {missing:.1f} more than the {have:.1f} that can be used",
        f"每个进程需要 {total / GIB:.1f} GiB,比可用的 {have:.1f} GiB 多 {missing:.1f} GiB",
    )
