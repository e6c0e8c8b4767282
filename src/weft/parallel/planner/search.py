"""Every layout of a job on a cluster: which fit, which is fastest, and the one reason each other family
lost.

A family is the set of techniques that a layout uses (``fsdp+tp``). For each layout and micro-batch the
cheapest recomputation that fits is taken, offload only where nothing else fits. Closed forms rank them
all; the best are then run through the pipeline simulator, and their activations traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from weft.core.errors import ConfigError
from weft.parallel.plan import Context, Plan, Recompute, Schedule
from weft.parallel.planner.estimate import Prediction, World, estimate
from weft.parallel.planner.job import Job
from weft.parallel.planner.local import Local
from weft.parallel.planner.memory import Source, formula, fullest

SCHEDULES: tuple[tuple[Schedule, int], ...] = (("1f1b", 1), ("interleaved", 2), ("zero-bubble", 2))
"""GPipe is left out: its bubble is that of 1F1B, and it keeps every micro-batch's activations."""
_RECOMPUTE: tuple[Recompute, ...] = ("none", "full", "selective")
FILL = 0.94
"""Share of the memory that a plan may count on: allocators lose some to fragments."""
MOST_PIPELINE, MOST_CONTEXT, MOST_EXPERTS = 64, 64, 64
TECHNIQUES = ("dp", "fsdp", "tp", "pp", "cp", "ep")
SHORT_ROWS = 4096
"""Context parallel is left out for rows shorter than this a rank, unless nothing else fits."""


@dataclass(frozen=True)
class Loss:
    """Why a family is not the winner. ``kind``: slower, memory, shape, nodes or batch; ``best``: its best
    layout, where one can run at all or comes closest; ``detail``: a sentence of the check that failed."""

    family: str
    kind: str
    best: Prediction | None
    detail: str = ""


@dataclass(frozen=True)
class Found:
    """``ranked``: what fits, fastest first; ``lost``: one entry a family; ``closest``: the layout that needs
    least memory where nothing fits; ``tried``: layouts looked at."""

    job: Job
    world: World
    ranked: tuple[Prediction, ...]
    lost: tuple[Loss, ...]
    closest: Prediction | None
    tried: int

    @property
    def limit(self) -> float:
        """Bytes that a rank may use."""
        return FILL * self.world.cluster.memory


def family(plan: Plan) -> str:
    """Names of the techniques in use, joined by ``+``."""
    used = [name for name in TECHNIQUES if getattr(plan, name) > 1]
    return "+".join(used) or "one process"


def search(job: Job, world: World, *, top: int = 10, source: Source = formula, narrow: bool = False) -> Found:
    """Rank the layouts of all processes of the cluster. ``source`` refines the memory of the best.

    ``narrow``: only small micro-batches and no exchange of heads, for a quick look at many sizes.
    """
    notes: dict[str, _Family] = {}
    found: list[Prediction] = []
    closest: _Size | None = None
    tried = 0
    for plan in layouts(job, world):
        if narrow and plan.context == "heads":
            continue
        kept = notes.setdefault(family(plan), _Family())
        reason = _refused(job, plan, world)
        if reason:
            kept.refuse(*reason)
            continue
        sizes = _micro_rows(job, plan)
        for micro_rows in sizes[:2] if narrow else sizes:
            tried += 1
            best, least = _fit(job, plan, micro_rows, world, kept)
            if least and (closest is None or least.bytes < closest.bytes):
                closest = least
            if best:
                found.append(best)
                kept.see(best)
    found.sort(key=lambda p: p.step.total)
    ranked = _refine(job, world, found, top, source)
    least_memory = closest.predicted(job, world) if closest else None
    lost = _losses(notes, ranked, job, world)
    return Found(job, world, tuple(ranked), lost, least_memory, tried)


def layouts(job: Job, world: World) -> Iterator[Plan]:
    """Every way to write the number of processes as pp * dp * fsdp * cp * tp, with the schedules of pp."""
    size = world.cluster.size
    for tp in _divisors(size):
        for cp in _divisors(size // tp, MOST_CONTEXT):
            for pp in _divisors(size // tp // cp, MOST_PIPELINE):
                for fsdp in _divisors(size // tp // cp // pp):
                    dp = size // tp // cp // pp // fsdp
                    for ep in _experts(job, dp * fsdp):
                        yield from _variants(Plan(pp=pp, dp=dp, fsdp=fsdp, cp=cp, tp=tp, ep=ep), job)


def _experts(job: Job, data_ranks: int) -> list[int]:
    """Numbers of ranks that experts can be spread over."""
    if not job.config.num_experts:
        return [1]
    return [n for n in _divisors(data_ranks, MOST_EXPERTS) if job.config.num_experts % n == 0]


def _variants(plan: Plan, job: Job) -> Iterator[Plan]:
    if plan.cp > 1:
        contexts: tuple[Context, ...] = ("ring", "heads")
    else:
        contexts = ("ring",)
    for context in contexts:
        with_context = dataclasses.replace(plan, context=context)
        if plan.pp == 1:
            yield with_context
            continue
        for schedule, stages in SCHEDULES:
            if plan.pp * stages <= job.config.num_hidden_layers or stages == 1:
                yield dataclasses.replace(with_context, schedule=schedule, stages_per_rank=stages)


def _refused(job: Job, plan: Plan, world: World) -> tuple[str, str] | None:
    cluster = world.cluster
    if plan.tp > 1 and plan.tp > cluster.per_node:
        return "nodes", f"tp = {plan.tp} would reach beyond a node of {cluster.per_node}"
    try:
        plan.check(job.config, rows=job.rows, micro_rows=1, length=job.length)
    except ConfigError as error:
        return "shape", str(error)
    if plan.cp > 1 and job.length // plan.cp < SHORT_ROWS // 16:
        return "shape", f"rows of {job.length} are too short to be cut over {plan.cp} ranks"
    return None


def _micro_rows(job: Job, plan: Plan) -> list[int]:
    rows = job.rows // plan.data_ranks
    if job.micro_rows is not None:
        return [job.micro_rows] if rows % job.micro_rows == 0 or plan.pp == 1 else []
    sizes = [size for size in _divisors(rows) if size & (size - 1) == 0 or size == rows]
    # A pipeline wants many small micro-batches, everything else few large ones.
    return [s for s in sizes if rows // s >= plan.pp] if plan.pp > 1 else sizes


def _fit(
    job: Job, plan: Plan, micro_rows: int, world: World, kept: _Family
) -> tuple[Prediction | None, _Size | None]:
    """(the variant with least recomputation that fits, the smallest variant if none does)."""
    limit, host_limit = FILL * world.cluster.memory, FILL * world.cluster.host_memory
    least: _Size | None = None
    for offload in (False, True) if plan.fsdp > 1 and not world.cluster.cores else (False,):
        for recompute in _RECOMPUTE:
            variant = dataclasses.replace(plan, recompute=recompute, offload=offload)
            try:
                memory = fullest(Local(job, variant, micro_rows), world.cluster)
            except ConfigError as error:
                kept.refuse("batch", str(error))
                return None, None
            fits = memory.total <= limit and memory.host * world.cluster.per_node <= host_limit
            if recompute == "full":
                if fits:
                    continue
                if not offload or memory.host * world.cluster.per_node <= host_limit:
                    size = _Size(memory.total, variant, micro_rows)
                    least = size if least is None else min(least, size, key=lambda s: s.bytes)
                break
            if fits:
                return estimate(job, variant, micro_rows, world, simulate=False), None
            if recompute == "selective":
                full = dataclasses.replace(variant, recompute="full")
                return estimate(job, full, micro_rows, world, simulate=False), None
    if least is not None:
        kept.short(least)
    return None, least


def _refine(job: Job, world: World, found: list[Prediction], top: int, source: Source) -> list[Prediction]:
    """Simulate the pipelines among the best, and take their memory from ``source``."""
    limit = FILL * world.cluster.memory
    again = [estimate(job, p.plan, p.micro_rows, world, source=source) for p in _varied(found, 3 * top)]
    fitting = [p for p in again if p.memory.total <= limit]
    return sorted(fitting, key=lambda p: p.step.total)[:top]


def _varied(found: list[Prediction], count: int) -> list[Prediction]:
    """The best ``count``, and the best of every family beside them."""
    kept = found[:count]
    seen = {family(p.plan) for p in kept}
    for prediction in found[count:]:
        if family(prediction.plan) not in seen:
            seen.add(family(prediction.plan))
            kept.append(prediction)
    return kept


@dataclass(frozen=True)
class _Size:
    """Memory of a layout that does not fit."""

    bytes: float
    plan: Plan
    micro_rows: int

    def predicted(self, job: Job, world: World) -> Prediction:
        return estimate(job, self.plan, self.micro_rows, world)


class _Family:
    """What the search saw of one family."""

    def __init__(self) -> None:
        self.best: Prediction | None = None
        self.smallest: _Size | None = None
        self.refusal: tuple[str, str] | None = None

    def see(self, prediction: Prediction) -> None:
        if self.best is None or prediction.step.total < self.best.step.total:
            self.best = prediction

    def short(self, size: _Size) -> None:
        if self.smallest is None or size.bytes < self.smallest.bytes:
            self.smallest = size

    def refuse(self, kind: str, detail: str) -> None:
        self.refusal = self.refusal or (kind, detail)


def _losses(notes: dict[str, _Family], ranked: list[Prediction], job: Job, world: World) -> tuple[Loss, ...]:
    winner = family(ranked[0].plan) if ranked else None
    lost = []
    for name, kept in notes.items():
        if name == winner:
            continue
        if kept.best:
            lost.append(Loss(name, "slower", kept.best))
        elif kept.smallest:
            lost.append(Loss(name, "memory", kept.smallest.predicted(job, world)))
        elif kept.refusal:
            lost.append(Loss(name, kept.refusal[0], None, kept.refusal[1]))
        else:
            lost.append(Loss(name, "batch", None))
    return tuple(sorted(lost, key=lambda loss: loss.best.step.total if loss.best else float("inf")))


def _divisors(number: int, most: int | None = None) -> list[int]:
    return [n for n in range(1, min(number, most or number) + 1) if number % n == 0]
