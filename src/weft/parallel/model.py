"""The model as one rank holds it, and how a training step runs over all ranks.

One process is the plain case of the same code. Whatever the plan, a loss is a sum over target tokens times
a scale that holds the global number of targets, so gradients of ranks are summed and never averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from weft.data.batch import Batch
from weft.models import Decoder
from weft.parallel import fsdp, gradients, recompute
from weft.parallel.data import sum_gradients
from weft.parallel.mesh import Mesh
from weft.parallel.plan import Plan
from weft.parallel.rows import Rows, packed
from weft.parallel.world import World


class Loss(Protocol):
    """What a step minimises; an objective of the trainer."""

    def loss(self, model: Decoder, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of the rows."""
        ...


class ParallelModel:
    """A decoder under a plan. ``module`` is what this rank holds of it."""

    def __init__(self, module: Decoder, plan: Plan, mesh: Mesh):
        self.module, self.plan, self.mesh = module, plan, mesh
        self.config = module.config

    @classmethod
    def alone(cls, module: Decoder) -> ParallelModel:
        """The whole model in one process."""
        device = module.inverse_frequencies.device
        return cls(module, Plan(), Mesh(Plan(), World(0, 1, 0, 1, device), None))

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.mesh.world.device

    def parameters(self) -> Iterator[nn.Parameter]:
        """What this rank holds and trains."""
        return self.module.parameters()

    def rows(self, batch: Batch) -> Rows:
        """This rank's part of its micro-batch, on its device."""
        return packed(batch, self.device, self.config.sliding_window)

    def count(self, targets: int) -> int:
        """Targets over all ranks, from those of this rank's rows."""
        return round(self._sum(float(targets), "data"))

    def accumulate(
        self, objective: Loss, batches: Sequence[Batch], scale: float, dtype: torch.dtype
    ) -> float:
        """Forward and backward of the step's micro-batches; the loss over all ranks.

        ``scale``: 1 by the targets over all ranks. Afterwards every parameter has the gradient of the
        whole step.
        """
        total = 0.0
        for number, batch in enumerate(batches, 1):
            fsdp.last(self.module, number == len(batches))
            part = objective.loss(self.module, self.rows(batch), scale, dtype)
            part.backward()  # type: ignore[no-untyped-call]
            total += part.item()
        sum_gradients((p for p in self.parameters() if not fsdp.sums(p)), self.mesh.group("sum"))
        return self._sum(total, "sum")

    @torch.no_grad()
    def evaluate(self, objective: Loss, batch: Batch, dtype: torch.dtype) -> float:
        """The summed loss over all ranks, without gradients; ``batch`` holds this data rank's rows."""
        return self._sum(objective.loss(self.module, self.rows(batch), 1.0, dtype).item(), "sum")

    def clip(self, most: float) -> float:
        """Clip the gradients by their norm over the whole model, and return it."""
        return gradients.clip(self.parameters(), most, self.mesh)

    def most(self, value: int) -> int:
        """The largest of the ranks' values."""
        if self.mesh.grid is None:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

    def _sum(self, value: float, line: str) -> float:
        group = self.mesh.group(line)
        if group is None:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, group=group)
        return total.item()


def parallelise(module: Decoder, plan: Plan, mesh: Mesh, dtype: torch.dtype) -> ParallelModel:
    """Apply every technique of the plan, innermost first, and return what this rank trains.

    ``dtype`` is that of matrix work. Every rank must hold the same weights, or weights on the meta device.
    """
    recompute.apply(module, plan)
    fsdp.apply(module, plan, mesh, dtype)
    return ParallelModel(module, plan, mesh)
