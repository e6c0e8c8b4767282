"""Predicted memory of every pipeline rank, by kind, in bytes; letters as in :mod:`.local`.

Weights, gradients and optimiser state are fp32 and cut by tp, pp and fsdp. Activations are those of the
micro-batches in flight, which the schedule's own order of actions says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weft.parallel.planner import activations
from weft.parallel.planner.activations import Kept
from weft.parallel.planner.hardware import Cluster
from weft.parallel.planner.in_flight import in_flight
from weft.parallel.planner.job import MASTER_BYTES
from weft.parallel.planner.local import Local

KINDS = ("weights", "gradients", "optimiser", "activations", "temporary", "communication", "runtime")


@dataclass(frozen=True)
class Memory:
    """Bytes by kind on one pipeline rank, and on its host where state is offloaded."""

    rank: int
    weights: float
    gradients: float
    optimiser: float
    activations: float
    temporary: float
    communication: float
    runtime: float
    host: float = 0.0

    @property
    def total(self) -> float:
        """All kinds on the device."""
        return float(sum(getattr(self, kind) for kind in KINDS))

    def kinds(self) -> dict[str, float]:
        """By name."""
        return {kind: getattr(self, kind) for kind in KINDS}


@dataclass(frozen=True)
class Style:
    """How the step runs where the plan does not say: which paths the kernels and the device take.

    ``fused``, ``masked``: as in :mod:`.activations`; ``runtime``: bytes of a process before any tensor;
    ``fragments``: bytes that the allocator takes for each live byte.
    """

    fused: bool
    masked: bool
    runtime: float
    fragments: float


def style(local: Local, cluster: Cluster) -> Style:
    """On a CPU native kernels serve bf16 heads of a multiple of 32; on a GPU a fused attention serves all."""
    device = cluster.device
    runtime = device.runtime + (device.pipeline if local.plan.pp > 1 else 0.0)
    if device.kind == "cpu":
        native = local.job.work_bytes == 2 and local.config.head_dim % 32 == 0
        return Style(True, not native and local.plan.cp == 1, runtime, device.fragments)
    return Style(local.job.compile, False, runtime, device.fragments)


Source = Callable[[Local, Style], Kept]


def formula(local: Local, how: Style) -> Kept:
    """Activations by formula; :func:`.traced.kept` gives them from a trace."""
    return activations.kept(local, how.fused, how.masked)


def fullest(local: Local, cluster: Cluster, source: Source = formula) -> Memory:
    """The pipeline rank that needs most: the first, which has most micro-batches in flight, or the last,
    which has the loss."""
    ends = every_rank(local, cluster, source, ranks=tuple({0, local.plan.pp - 1}))
    return max(ends, key=lambda memory: memory.total)


def every_rank(
    local: Local, cluster: Cluster, source: Source = formula, ranks: Sequence[int] | None = None
) -> list[Memory]:
    """One entry a pipeline rank, or for some of them."""
    how = style(local, cluster)
    numbers = source(local, how)
    plan = local.plan
    alive = in_flight(plan.schedule, plan.pp, plan.stages_per_rank, local.micros) if plan.pp > 1 else ((1,),)
    return [
        _rank(local, how, numbers, rank, alive[rank]) for rank in (range(plan.pp) if ranks is None else ranks)
    ]


def _rank(local: Local, how: Style, numbers: Kept, rank: int, alive: tuple[int, ...]) -> Memory:
    plan, stages = local.plan, local.stages_of(rank)
    last = plan.stages - 1
    state = MASTER_BYTES * sum(local.held(stage) for stage in stages)
    kept, temporary = 0.0, numbers.moment
    for stage, micros in zip(stages, alive, strict=True):
        one = local.stages[stage] * numbers.block + numbers.shared
        one += (stage == 0) * numbers.first + (stage == last) * numbers.last
        kept += micros * one
    if last in stages:
        loss, logits = activations.loss(local)
        # The loss has made its gradients before the blocks behind it free anything.
        kept += loss
        temporary = max(temporary, logits)
    buffers = communication(local, stages)
    # Gradients are copied together to be summed when activations are gone already.
    temporary = max(temporary, summed(local, state) - kept)
    device = [state, state, optimiser_bytes(local, stages)]
    host = sum(device) if plan.offload else 0.0
    if plan.offload:
        device = [0.0, 0.0, 0.0]
    live = sum(device) + kept + temporary + buffers
    temporary += (how.fragments - 1.0) * live
    weights, gradients, optimiser = device
    return Memory(rank, weights, gradients, optimiser, kept, temporary, buffers, how.runtime, host)


def summed(local: Local, state: float) -> float:
    """Bytes of the flat copies in which gradients are summed over the ranks at the end of a step."""
    plan = local.plan
    return state if plan.fsdp == 1 and plan.dp * plan.cp > 1 else 0.0


def optimiser_bytes(local: Local, stages: tuple[int, ...]) -> float:
    """AdamW keeps two moments of every weight; Muon one momentum of each matrix inside blocks."""
    held = sum(local.held(stage) for stage in stages)
    cut = (local.block_matrices - local.experts) / local.shards
    matrices = cut + local.experts / local.expert_shards
    if local.job.optimizer == "muon":
        held -= 0.5 * sum(local.stages[stage] for stage in stages) * matrices
    return 2.0 * MASTER_BYTES * held


def communication(local: Local, stages: tuple[int, ...]) -> float:
    """Buffers: gathered weights and scattered gradients of fsdp, gathered rows of tp, messages of pp, cp."""
    plan, a, E = local.plan, local.job.work_bytes, local.config.hidden_size
    total = 0.0
    if plan.fsdp > 1:
        block = local.block_matrices if local.expert_shards > 1 else local.block_matrices - local.experts
        ends = sum(
            local.parameters(s) - local.vectors(s) - local.stages[s] * local.block_matrices for s in stages
        )
        # The block at work and the next one, gathered; gradients of one on their way out. The ends are
        # gathered in fp32 and stay so until the step's end, as do their gradients.
        held = 2.0 if plan.pp == 1 else float(sum(local.stages[s] for s in stages))
        # A pipeline keeps what is gathered, and whole gradients, until the step's last micro-batch.
        total += held * block * (a + MASTER_BYTES) + 2.0 * ends * MASTER_BYTES
    if plan.tp > 1:
        total += 2.0 * local.N * E * a
    if plan.cp > 1:
        total += 4.0 * local.N * local.groups * local.config.head_dim * a
    if plan.pp > 1:
        message = local.n * E * a
        ends_of_pipe = (0 in stages) + (plan.stages - 1 in stages)
        total += (2 * len(stages) - ends_of_pipe) * local.micros * message
    return total
