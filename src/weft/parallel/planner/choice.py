"""The planner's answer in one call: for a job and a machine the best layout, or a refusal with a way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

from weft.core.errors import ConfigError, ResourceError
from weft.core.page import Words
from weft.parallel.plan import Plan
from weft.parallel.planner import calibration, change, traced
from weft.parallel.planner.estimate import Prediction, World, estimate
from weft.parallel.planner.hardware import Cluster
from weft.parallel.planner.job import MASTER_BYTES, Job
from weft.parallel.planner.local import Local
from weft.parallel.planner.memory import formula, style
from weft.parallel.planner.search import Found, search
from weft.parallel.planner.witness import witness


def world_of(cluster: Cluster, job: Job) -> World:
    """Measured rates where this machine was calibrated, else those of the profile."""
    if cluster.cores:
        known = calibration.load(job.dtype)
        if known is not None:
            return known.world(cluster, job)
    return World.published(cluster, job)


def find(job: Job, cluster: Cluster, *, top: int = 10) -> Found:
    """Rank the layouts of all processes of ``cluster``."""
    return search(job, world_of(cluster, job), top=top, source=traced.kept)


def seen(found: Found) -> Words:
    """The winner's real model traced under a fake process group, two blocks a stage, beside the formula.

    ResourceError for layouts that cannot be traced.
    """
    best = found.ranked[0]
    plan = best.plan
    layers = min(found.job.config.num_hidden_layers, 2 * plan.stages)
    config = dataclasses.replace(found.job.config, num_hidden_layers=layers)
    local = Local(dataclasses.replace(found.job, config=config), plan, best.micro_rows)
    how = style(local, found.world.cluster)
    (first, *_) = witness(local, fused=how.fused)
    numbers = formula(local, how)
    foretold = local.stages[0] * numbers.block + numbers.shared + numbers.first
    if plan.fsdp > 1:
        # What the forward pass has gathered and not given back: the ends in fp32, and the last blocks.
        ends = local.parameters(0) - local.vectors(0) - local.stages[0] * local.block_matrices
        held = local.stages[0] if plan.pp > 1 else min(2, local.stages[0])
        foretold += ends * MASTER_BYTES + held * local.block_matrices * local.job.work_bytes
    calls = ", ".join(f"{count} {name.strip('_')}" for name, count in first.collectives.items()) or "none"
    return Words(
        f"traced on fake tensors, {plan.size} fake processes, {local.stages[0]} blocks: a micro-batch keeps "
        f"{first.kept / 2**20:,.1f} MiB (formula {foretold / 2**20:,.1f}); collectives: {calls}",
        f"在假张量和 {plan.size} 个虚拟进程上追踪 {local.stages[0]} 层:每个微批保留 "
        f"{first.kept / 2**20:,.1f} MiB(公式 {foretold / 2**20:,.1f});集合通信:{calls}",
    )


def best_of(job: Job, clusters: Sequence[Cluster], *, top: int = 10) -> tuple[Found, list[Found]]:
    """(the answer with the fastest step, all answers), one a cluster."""
    every = [find(job, cluster, top=top) for cluster in clusters]
    able = [found for found in every if found.ranked]
    return min(able, key=lambda f: f.ranked[0].step.total) if able else every[0], every


def choose(job: Job, cluster: Cluster) -> tuple[Plan, int]:
    """(plan, rows of a micro-batch) of the fastest layout that fits.

    ResourceError, with the smallest change that would make it fit, when none does.
    """
    found = find(job, cluster, top=1)
    if not found.ranked:
        raise ResourceError(refusal(found).en)
    return found.ranked[0].plan, found.ranked[0].micro_rows


def refusal(found: Found) -> Words:
    """Why nothing fits, and the smallest change that helps."""
    on = found.world.cluster.describe()
    if found.closest is None:
        why = Words(f"No layout can run on {on}", f"没有能在 {on} 上运行的方案")
    else:
        short = change.shortage(found.closest.memory.total, found.world)
        why = Words(
            f"Nothing fits on {on}: even {found.closest} {short.en}",
            f"{on} 放不下:即使 {found.closest},{short.zh}",
        )
    way = change.of_job(found.job, found.world)
    if way is None:
        return Words(
            f"{why.en}; use a smaller model or more memory.", f"{why.zh};请换更小的模型或更大的内存。"
        )
    return Words(
        f"{why.en}; the smallest change that helps: {way.what.en} (then {way.plan}, train.micro_rows = "
        f"{way.micro_rows}).",
        f"{why.zh};最小的可行改动:{way.what.zh}(之后用 {way.plan},train.micro_rows = {way.micro_rows})。",
    )


def refuse(found: Found, language: str = "en") -> NoReturn:
    """Raise ResourceError with :func:`refusal`."""
    words = refusal(found)
    raise ResourceError(words.zh if language == "zh" else words.en)


def judged(job: Job, plan: Plan, world: World) -> Prediction:
    """One asked-for layout, with the job's micro-batch or the largest that fits.

    ConfigError where it cannot run, ResourceError where it does not fit; both say what to change.
    """
    rows = job.rows // plan.data_ranks
    sizes = [job.micro_rows] if job.micro_rows else [n for n in range(rows, 0, -1) if rows % n == 0]
    found: Prediction | None = None
    for micro_rows in sizes:
        plan.check(job.config, rows=job.rows, micro_rows=micro_rows, length=job.length)
        try:
            found = estimate(job, plan, micro_rows, world, source=traced.kept)
        except ConfigError:
            # Too few micro-batches for the schedule: smaller ones are tried next.
            if micro_rows == sizes[-1]:
                raise
            continue
        if found.memory.total <= world.cluster.memory:
            return found
    if found is None:
        plan.check(job.config, rows=job.rows, micro_rows=1, length=job.length)
        raise ConfigError(
            f"The {job.rows} rows of a step do not suffice for {plan}; set train.batch_tokens higher."
        )
    short = change.shortage(found.memory.total, world).en
    way = change.of_plan(job, plan, found.micro_rows, world)
    hint = f"the smallest change that helps: {way.what.en}" if way else "run weft plan for a layout that fits"
    raise ResourceError(f"The layout {plan} {short}; {hint}.")
