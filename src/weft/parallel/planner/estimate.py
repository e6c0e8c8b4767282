"""One layout foretold: memory of the fullest rank, seconds of a step by kind, and what follows from them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from weft.parallel.plan import Plan
from weft.parallel.planner import work
from weft.parallel.planner.collectives import Fit, Group, Network, group
from weft.parallel.planner.hardware import Cluster
from weft.parallel.planner.job import MASTER_BYTES, Job
from weft.parallel.planner.local import Local
from weft.parallel.planner.memory import Memory, Source, formula, fullest, style
from weft.parallel.planner.overlap import exposed
from weft.parallel.planner.rates import Published, Rates
from weft.parallel.planner.simulate import StageSeconds, Timeline, run
from weft.parallel.schedules import order

TIMES = ("compute", "communication", "bubble", "optimiser", "data")


@dataclass(frozen=True)
class Step:
    """Seconds of a step by kind; ``communication`` is what no computation hides."""

    compute: float
    communication: float
    bubble: float
    optimiser: float
    data: float

    @property
    def total(self) -> float:
        """The whole step."""
        return float(sum(getattr(self, kind) for kind in TIMES))

    def kinds(self) -> dict[str, float]:
        """By name."""
        return {kind: getattr(self, kind) for kind in TIMES}


@dataclass(frozen=True)
class Prediction:
    """What a plan is foretold to do. ``peak``: published or measured matrix FLOP/s of the whole cluster."""

    plan: Plan
    micro_rows: int
    memory: Memory
    step: Step
    tokens: int
    flops: float
    peak: float

    @property
    def tokens_per_second(self) -> float:
        """Over all ranks."""
        return self.tokens / self.step.total

    @property
    def peak_share(self) -> float:
        """Matrix operations the model needs, by what the hardware could do in that time."""
        return self.flops / self.step.total / self.peak

    def __str__(self) -> str:
        return f"{self.plan} micro_rows={self.micro_rows}"


@dataclass(frozen=True)
class World:
    """Everything about the machine that an estimate needs."""

    cluster: Cluster
    rates: Rates
    network: Network
    peak: float
    # Seconds a step spends outside of what the model knows: reading rows, records, the loop itself.
    data: float = 0.0

    @classmethod
    def published(cls, cluster: Cluster, job: Job) -> World:
        """From a profile alone."""
        peak = cluster.device.rate(job.dtype) * cluster.size
        return cls(cluster, Published(cluster, job.dtype), Network(cluster), peak, 0.002)

    @classmethod
    def of(cls, cluster: Cluster, rates: Rates, fits: tuple[Fit, ...], peak: float) -> World:
        """From measured rates and fits of collectives; ``peak``: FLOP/s of the whole machine."""
        return cls(cluster, rates, Network(cluster, fits), peak, 0.001)


def estimate(
    job: Job, plan: Plan, micro_rows: int, world: World, *, source: Source = formula, simulate: bool = True
) -> Prediction:
    """Foretell one layout. ``simulate``: run the pipeline's schedule, else take its closed form."""
    local = Local(job, plan, micro_rows)
    memory = fullest(local, world.cluster, source)
    return Prediction(
        plan, micro_rows, memory, _step(local, world, simulate), job.tokens, job.flops, world.peak
    )


def timeline(job: Job, plan: Plan, micro_rows: int, world: World) -> Timeline:
    """The simulated pipeline of a plan with pp > 1."""
    pieces = _Pieces(Local(job, plan, micro_rows), world)
    return _pipeline(pieces, [pieces.stage(s) for s in range(plan.stages)])


def _step(local: Local, world: World, simulate: bool) -> Step:
    plan, pieces = local.plan, _Pieces(local, world)
    stages = [pieces.stage(s) for s in range(plan.stages)]
    ends = {0, plan.pp - 1}
    seconds = [s.forward + s.inputs + s.weights for s in stages]
    of_rank = [local.micros * sum(seconds[s] for s in local.stages_of(r)) for r in range(plan.pp)]
    busiest = max(range(plan.pp), key=lambda r: of_rank[r])
    hidden = sum(pieces.exposed(s) for s in local.stages_of(busiest)) * local.micros
    busy, bubble = of_rank[busiest], 0.0
    if plan.pp > 1:
        if simulate:
            # Cores that some ranks leave idle speed the others up, so a pipeline may beat its busiest rank.
            whole = _pipeline(pieces, stages).seconds
            busy = min(busy, whole)
            bubble = whole - busy
        else:
            bubble = _closed_form(local, seconds)
    optimiser = max(pieces.optimiser(local.stages_of(r)) for r in ends)
    sync = max(pieces.sync(local.stages_of(r)) for r in ends)
    return Step(
        compute=busy - hidden,
        communication=hidden + sync,
        bubble=bubble,
        optimiser=optimiser,
        data=world.data,
    )


def _pipeline(pieces: _Pieces, stages: list[StageSeconds]) -> Timeline:
    local, world = pieces.local, pieces.world
    plan = local.plan
    actions = order(plan.schedule, plan.pp, plan.stages_per_rank, local.micros)
    if not world.cluster.cores:
        return run(actions, stages, pieces.message)
    # The other pipelines of the host, and the ranks beside each of these, work and wait at the same moments.
    beside = plan.size // plan.pp
    return run(actions, stages, pieces.message, lambda working: world.rates.speed(working * beside))


def _closed_form(local: Local, seconds: list[float]) -> float:
    """(p - 1) forward and backward passes of a stage wait; zero-bubble schedules fill two thirds."""
    share = 1 / 3 if local.plan.schedule == "zero-bubble" else 1.0
    return share * (local.plan.pp - 1) * max(seconds)


@dataclass
class _Pieces:
    """Seconds of the pieces of a step on one rank."""

    local: Local
    world: World

    def stage(self, stage: int) -> StageSeconds:
        """One micro-batch."""
        blocks, last = self.local.stages[stage], stage == self.local.plan.stages - 1
        forward = blocks * (self.forward + self.forward_exposed)
        backward = blocks * (self.backward + self.backward_exposed)
        if stage == 0:
            forward += 0.3 * self.embedding + self.embedding_communication[0]
            backward += 0.7 * self.embedding + self.embedding_communication[1]
        if last:
            forward += self.loss
        # The gradient of the weights is one of the two products of a backward pass.
        weights = 0.4 * blocks * self.backward
        return StageSeconds(forward, backward - weights, weights)

    def exposed(self, stage: int) -> float:
        """Communication of one micro-batch that nothing hides."""
        both = self.forward_exposed + self.backward_exposed
        ends = sum(self.embedding_communication) if stage == 0 else 0.0
        if stage == self.local.plan.stages - 1:
            ends += self.loss_communication
        return self.local.stages[stage] * both + ends

    @functools.cached_property
    def fused(self) -> bool:
        return style(self.local, self.world.cluster).fused

    def seconds(self, piece: str, amount: work.Work) -> float:
        return self.world.rates.seconds(piece, amount)

    def collective(self, kind: str, size: float, *names: str) -> float:
        where = group(self.local.plan, self.world.cluster, names)
        return self.world.network.seconds(kind, size, where)

    @functools.cached_property
    def meeting(self) -> float:
        """Factor on blocks after each of which ranks wait for the slowest."""
        plan = self.local.plan
        return self.world.rates.skew if max(plan.tp, plan.cp, plan.fsdp) > 1 else 1.0

    @functools.cached_property
    def forward(self) -> float:
        return self.meeting * self.seconds("forward", work.block_forward(self.local, self.fused))

    @functools.cached_property
    def backward(self) -> float:
        again = work.block_recompute(self.local, self.fused)
        redone = self.seconds("forward", again) if again.calls else 0.0
        return self.meeting * (redone + self.seconds("backward", work.block_backward(self.local, self.fused)))

    @functools.cached_property
    def embedding(self) -> float:
        return self.seconds("embedding", work.embedding(self.local))

    @functools.cached_property
    def loss(self) -> float:
        return self.seconds("loss", work.loss(self.local)) + self.loss_communication

    @functools.cached_property
    def loss_communication(self) -> float:
        """Under tp, chunk by chunk: rows gathered, their gradient scattered, maximum, sum and target's score
        reduced."""
        chunk = min(work.CHUNK, self.local.N)
        size = float(chunk * self.local.config.hidden_size * self.local.job.work_bytes)
        parts = (("all_gather", size), ("reduce_scatter", size), ("all_reduce", 4.0 * chunk))
        one = sum(
            self.collective(kind, amount, "tp") for kind, amount in (*parts, ("all_reduce", 8.0 * chunk))
        )
        return self.local.N / chunk * one

    @functools.cached_property
    def embedding_communication(self) -> tuple[float, float]:
        """Under tp: found rows scattered in fp32, their gradients gathered."""
        size = float(MASTER_BYTES * self.local.N * self.local.config.hidden_size)
        return self.collective("reduce_scatter", size, "tp"), self.collective("all_gather", size, "tp")

    @functools.cached_property
    def _tensor(self) -> tuple[float, float]:
        """Forward and backward of a block: rows gathered before and scattered after each half, and the other
        way round on the way back. What was gathered is kept, so only recomputation gathers it again."""
        size = float(self.local.N * self.local.config.hidden_size * self.local.job.work_bytes)
        gather = self.collective("all_gather", size, "tp")
        scatter = self.collective("reduce_scatter", size, "tp")
        both = 2 * (gather + scatter)
        again = {"none": 0.0, "selective": gather, "full": 2 * gather + scatter}[self.local.plan.recompute]
        return both, both + again

    @functools.cached_property
    def _context(self) -> tuple[float, float]:
        """Keys and values pass round the ring (their gradients too on the way back), or heads change
        places by all-to-all."""
        plan, local = self.local.plan, self.local
        if plan.cp == 1:
            return 0.0, 0.0
        D, a = local.config.head_dim, local.job.work_bytes
        keys = 2.0 * local.N * local.groups * D * a
        if plan.context == "ring":
            hop = self.collective("exchange", keys, "cp")
            forward = exposed((plan.cp - 1) * hop, self.forward, self.world.cluster)
            return forward, exposed((plan.cp - 1) * 3 * hop, self.backward, self.world.cluster)
        there = float(local.N * (local.heads + 2 * local.groups) * D * a)
        back = float(local.N * local.heads * D * a)
        once = self.collective("all_to_all", there, "cp") + self.collective("all_to_all", back, "cp")
        return once, once

    @functools.cached_property
    def _experts(self) -> float:
        """Rows to their experts and back, in either pass."""
        plan, cluster = self.local.plan, self.world.cluster
        if plan.ep == 1:
            return 0.0
        stride = plan.cp * plan.tp
        where = Group(plan.ep, math.gcd(plan.ep, max(1, cluster.per_node // stride)))
        size = self.local.routed * self.local.config.hidden_size * self.local.job.work_bytes
        return 2 * self.world.network.seconds("all_to_all", size, where)

    @functools.cached_property
    def _shards(self) -> tuple[float, float]:
        """fsdp: a block's weights gathered in both passes, its gradients scattered."""
        local, plan = self.local, self.local.plan
        if plan.fsdp == 1:
            return 0.0, 0.0
        block = local.block_matrices
        gather = self.collective("all_gather", float(block * local.job.work_bytes), "fsdp", "cp")
        scatter = self.collective("reduce_scatter", float(block * MASTER_BYTES), "fsdp", "cp")
        if plan.offload:
            # Weights come from the host and gradients go there, over its bus.
            bus = 20e9
            gather += block * local.job.work_bytes / plan.fsdp / bus
            scatter += block * MASTER_BYTES / plan.fsdp / bus
        if plan.pp > 1:
            # Stages stay gathered for a whole step, and sum their gradients once.
            return 0.0, exposed((gather + scatter) / local.micros, self.backward, self.world.cluster)
        ahead = exposed(gather, self.forward, self.world.cluster)
        return ahead, exposed(gather + scatter, self.backward, self.world.cluster)

    @functools.cached_property
    def forward_exposed(self) -> float:
        return self._tensor[0] + self._context[0] + self._shards[0] + self._experts

    @functools.cached_property
    def backward_exposed(self) -> float:
        return self._tensor[1] + self._context[1] + self._shards[1] + self._experts

    @functools.cached_property
    def message(self) -> float:
        """Seconds of an activation's way to the next stage."""
        size = float(self.local.n * self.local.config.hidden_size * self.local.job.work_bytes)
        return self.collective("exchange", size, "pp")

    def sync(self, stages: tuple[int, ...]) -> float:
        """What the end of a step sends: sums of gradients, the norm, the count of targets."""
        local, plan = self.local, self.local.plan
        held = sum(local.parameters(s) for s in stages)
        total = 0.0
        if plan.fsdp > 1:
            vectors = sum(local.vectors(s) for s in stages)
            ends = float(held - vectors - sum(local.stages[s] * local.block_matrices for s in stages))
            times = local.micros if plan.pp == 1 else 1
            total += times * self.collective("all_gather", MASTER_BYTES * ends, "fsdp", "cp")
            total += times * self.collective("reduce_scatter", MASTER_BYTES * ends, "fsdp", "cp")
            total += self.collective("all_reduce", MASTER_BYTES * float(vectors), "dp", "cp")
            if plan.dp > 1:
                total += self.collective("all_reduce", MASTER_BYTES * (held - vectors) / local.shards, "dp")
        elif plan.dp * plan.cp > 1:
            names = tuple(name for name in ("dp", "fsdp", "cp") if getattr(plan, name) > 1)
            total += self.collective("all_reduce", MASTER_BYTES * float(held), names[0], names[-1])
        if plan.pp > 1 and local.config.tie_word_embeddings and {0, plan.stages - 1} & set(stages):
            # Both ends of the pipeline hold the tied matrix.
            matrix = MASTER_BYTES * float(local.vocabulary * local.config.hidden_size) / local.shards
            total += self.collective("all_reduce", matrix, "pp")
        if plan.size > 1:
            total += 2 * self.collective("all_reduce", 8.0, "pp", "tp")
        if plan.tp > 1:
            norms = sum(local.stages[s] for s in stages) * local.block_vectors
            total += self.collective("all_reduce", MASTER_BYTES * float(norms), "tp")
        return total

    def optimiser(self, stages: tuple[int, ...]) -> float:
        """Norm, clipping and the update of what this rank holds."""
        local = self.local
        held = sum(local.held(s) for s in stages)
        matrices = sum(local.stages[s] for s in stages)
        tensors = 11.0 * matrices + 3.0
        total = self.seconds("clip", work.clip(held, tensors))
        if local.job.optimizer == "adamw":
            update = self.seconds("adamw", work.adamw(held, tensors))
            if local.plan.offload:
                # The host updates at its own memory's pace.
                update = max(update, 7.0 * MASTER_BYTES * held / 20e9)
            return total + update
        cut = (local.block_matrices - local.experts) / local.shards
        inside = matrices * (cut + local.experts / local.expert_shards)
        total += self.seconds("adamw", work.adamw(held - inside, tensors))
        return total + self.seconds("muon", work.muon(work.block_shapes(local) * matrices))
