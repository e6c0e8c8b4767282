"""Pipeline parallel: stages of blocks on different ranks, fed with micro-batches, on PyTorch's schedules.

GPipe (arXiv:1811.06965), 1F1B (arXiv:1806.03377), interleaved 1F1B (arXiv:2104.04473) and interleaved
zero-bubble (arXiv:2401.10241). All ranks of a pipeline read the same rows; only activations [B, T, E] and
their gradients travel, in the dtype of the computation. Tied embeddings are on the first and on the last
stage: their gradients are summed, so that the two copies stay equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
)

from weft.models import Decoder
from weft.ops.local import local
from weft.parallel.cuts import cut
from weft.parallel.gradients import COPIES
from weft.parallel.mesh import Mesh
from weft.parallel.objective import Loss
from weft.parallel.plan import Plan
from weft.parallel.rows import Rows
from weft.parallel.stage import Stage, Work


class Pipeline:
    """The stages of this rank and the schedules that run them.

    ``held`` has all parameters of this rank under the names of the whole decoder (it is the stage itself
    where there is one); techniques that wrap modules are applied to each of ``stages``.
    """

    def __init__(self, held: Stage, stages: dict[int, Stage], plan: Plan, mesh: Mesh):
        self.held, self.stages, self.plan, self.mesh = held, stages, plan, mesh
        self._ends = _ends(mesh) if held.config.tie_word_embeddings else None
        self._schedules: dict[tuple[Any, ...], Any] = {}
        self._score: tuple[Loss, Sequence[Rows], float] | None = None

    def train(self, objective: Loss, rows: Sequence[Rows], scale: float, dtype: torch.dtype) -> float:
        """Forward and backward of all micro-batches; the loss on the rank with the last stage, elsewhere 0.

        ``rows`` have one shape. Gradients of copied weights are summed; those of ranks with other rows not.
        """
        loss = self._run(objective, rows, scale, dtype, training=True)
        self._sum_copies()
        return loss

    def evaluate(self, objective: Loss, rows: Sequence[Rows], dtype: torch.dtype) -> float:
        """The summed loss of the rows, forward only; 0 on ranks without the last stage."""
        return self._run(objective, rows, 1.0, dtype, training=False)

    def _run(
        self, objective: Loss, rows: Sequence[Rows], scale: float, dtype: torch.dtype, *, training: bool
    ) -> float:
        schedule = self._schedule(len(rows), rows[0].tokens.shape, dtype, training)
        for stage in self.stages.values():
            stage.work = Work(rows, dtype)
        self._score = (objective, rows, scale)
        numbers = torch.arange(len(rows))
        losses: list[Tensor] = []
        step = schedule.step if training else schedule.eval
        step(number=numbers, target=numbers, losses=losses, return_outputs=False)
        self._score = None
        return float(sum(loss.item() for loss in losses))

    def _loss(self, hidden_BTE: Tensor, number: Tensor) -> Tensor:
        assert self._score is not None
        objective, rows, scale = self._score
        return objective.score(self.held, hidden_BTE, rows[int(number)], scale)

    def _schedule(self, micros: int, shape: torch.Size, dtype: torch.dtype, training: bool) -> Any:
        """The schedule of this shape; kept, with the buffers that it receives into."""
        key = (micros, shape, dtype, training)
        if key not in self._schedules:
            self._schedules[key] = self._make(*key)
        return self._schedules[key]

    def _make(self, micros: int, shape: torch.Size, dtype: torch.dtype, training: bool) -> Any:
        """PyTorch's schedule for micro-batches of a shape. Shapes are given, so that none are sent around."""
        width = self.held.config.hidden_size
        hidden = torch.empty(
            shape[0], shape[1] // self.plan.tp, width, dtype=dtype, device="meta", requires_grad=True
        )
        stages = [
            PipelineStage(
                stage,
                index,
                self.plan.stages,
                self.mesh.world.device,
                input_args=() if stage.first else (hidden,),
                output_args=(hidden,),
                group=self.mesh.group("pp"),
            )
            for index, stage in self.stages.items()
        ]
        if not training:
            return ScheduleLoopedBFS(stages, micros, self._loss, scale_grads=False)  # type: ignore[arg-type]
        kind = _SCHEDULES[self.plan.schedule]
        several = self.plan.stages_per_rank > 1
        return kind(stages if several else stages[0], micros, self._loss, scale_grads=False)

    def _sum_copies(self) -> None:
        if self._ends is None or not (self.held.first or self.held.last):
            return
        # Here rather than when it was made: sharding replaces parameters, and their attributes are gone.
        weight = self.held.embedding.weight
        setattr(weight, COPIES, 2)
        assert weight.grad is not None
        dist.all_reduce(local(weight.grad), group=self._ends)


_SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zero-bubble": ScheduleInterleavedZeroBubble,
}


def apply(whole: Decoder, plan: Plan, mesh: Mesh) -> Pipeline:
    """Keep of ``whole`` what this rank's stages hold. Stage s is on rank ``s % pp`` of the pipeline."""
    layers = cut(whole.config, plan.stages)
    mine = range(mesh.coordinate("pp"), plan.stages, plan.pp)
    last = plan.stages - 1
    stages = {s: Stage(whole, layers[s], first=s == 0, last=s == last) for s in mine}
    held = stages[mine[0]]
    if len(mine) > 1:
        held = Stage(whole, [n for s in mine for n in layers[s]], first=0 in mine, last=last in mine)
    return Pipeline(held, stages, plan, mesh)


def _ends(mesh: Mesh) -> dist.ProcessGroup | None:
    """The group of the first and the last rank of this rank's pipeline; every rank makes all such groups."""
    assert mesh.grid is not None
    if mesh.size("pp") == 2:
        return mesh.group("pp")
    mine: dist.ProcessGroup | None = None
    lines = mesh.grid.mesh.flatten(1)
    pairs = torch.stack([lines[0], lines[-1]], dim=1).tolist()
    for pair in pairs:
        group = dist.new_group(pair)
        if mesh.world.rank in pair:
            mine = group
    return mine
