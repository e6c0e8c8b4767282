"""The model as one rank holds it, and how a training step runs over all ranks.

One process is the plain case of the same code. Whatever the plan, a loss is a sum over target tokens times
a scale that holds the global number of targets, so gradients of ranks are summed and never averaged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from weft.core.errors import ConfigError
from weft.data.batch import Batch, PairBatch
from weft.models import Decoder, DecoderConfig
from weft.models.baseline import Baseline
from weft.models.encdec import EncoderDecoder
from weft.models.encoder import Encoder
from weft.parallel import compile, expert, fsdp, gradients, recompute, tensor
from weft.parallel import float8 as float8_products
from weft.parallel.context import split
from weft.parallel.data import sum_gradients
from weft.parallel.mesh import Mesh
from weft.parallel.objective import Loss
from weft.parallel.plan import Plan
from weft.parallel.rows import paired, seen
from weft.parallel.stage import Stage
from weft.parallel.suspects import suspects
from weft.parallel.world import World

if TYPE_CHECKING:
    from weft.parallel.pipeline import Pipeline


Network = Decoder | Encoder | EncoderDecoder | Baseline


class ParallelModel:
    """A model under a plan. ``module`` is what this rank holds of it, ``pipeline`` what runs its stages."""

    def __init__(self, module: Network | Stage, plan: Plan, mesh: Mesh, pipeline: Pipeline | None = None):
        self.module, self.plan, self.mesh, self.pipeline = module, plan, mesh, pipeline
        self.config = module.config

    @classmethod
    def alone(cls, module: Network) -> ParallelModel:
        """The whole model in one process."""
        device = module.embedding.weight.device
        return cls(module, Plan(), Mesh(Plan(), World(0, 1, 0, 1, device), None))

    @property
    def whole(self) -> Network:
        """The module where this rank runs the model from end to end; not for a pipeline."""
        assert not isinstance(self.module, Stage)
        return self.module

    @property
    def parts(self) -> Sequence[nn.Module]:
        """What this rank runs forward and backward: the model, or its stages of a pipeline."""
        return [self.whole] if self.pipeline is None else list(self.pipeline.stages.values())

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.mesh.world.device

    def parameters(self) -> Iterator[nn.Parameter]:
        """What this rank holds and trains."""
        return self.module.parameters()

    def rows(self, batch: Batch | PairBatch) -> Any:
        """This rank's part of its micro-batch, on its device, as its kind of model reads it."""
        if isinstance(batch, PairBatch):
            return paired(batch, self.device)
        if isinstance(self.config, DecoderConfig):
            return split(batch, self.mesh, self.config.sliding_window)
        return seen(batch, self.device)

    def count(self, targets: int) -> int:
        """Targets over all ranks, from those of this rank's rows."""
        return round(self.total(float(targets)))

    def total(self, value: float) -> float:
        """The sum over all ranks of what each found in its rows."""
        return self._sum(value, "data")

    def accumulate(
        self, objective: Loss, batches: Sequence[Batch | PairBatch], scale: float, dtype: torch.dtype
    ) -> float:
        """Forward and backward of the step's micro-batches; the loss over all ranks.

        ``scale``: 1 by the targets over all ranks. Afterwards every parameter has the gradient of the
        whole step.
        """
        total = 0.0
        if self.pipeline is not None:
            total = self.pipeline.train(objective, [self.rows(batch) for batch in batches], scale, dtype)
        else:
            for number, batch in enumerate(batches, 1):
                fsdp.last(self.module, number == len(batches))
                part = objective.loss(self.whole, self.rows(batch), scale, dtype)
                part.backward()  # type: ignore[no-untyped-call]
                total += part.item()
        self._sum_gradients()
        return self._sum(self._sum(total, "sum"), "pp")

    @torch.no_grad()
    def evaluate(self, objective: Loss, batch: Batch | PairBatch, dtype: torch.dtype) -> float:
        """The summed loss over all ranks, without gradients; ``batch`` holds this data rank's rows."""
        self.module.eval()
        try:
            return self._sum(self._sum(self._evaluate(objective, batch, dtype), "sum"), "pp")
        finally:
            self.module.train()

    def _evaluate(self, objective: Loss, batch: Batch | PairBatch, dtype: torch.dtype) -> float:
        if self.pipeline is None:
            return objective.loss(self.whole, self.rows(batch), 1.0, dtype).item()
        micros = math.gcd(len(batch.tokens), self.plan.pp)
        rows = [self.rows(batch.part(micro, micros)) for micro in range(micros)]
        return self.pipeline.evaluate(objective, rows, dtype)

    def clip(self, most: float) -> float:
        """Clip the gradients by their norm over the whole model, and return it."""
        return gradients.clip(self.parameters(), most, self.mesh)

    def suspects(
        self, objective: Loss, batches: Sequence[Batch | PairBatch], scale: float, dtype: torch.dtype
    ) -> tuple[int, ...]:
        """The ranks in which the step first makes what is not finite; empty alone, or when it now does not.

        Runs the step again: its gradients must not be used afterwards.
        """
        if self.mesh.grid is None:
            return ()
        again = functools.partial(self.accumulate, objective, batches, scale, dtype)
        return suspects(self.parts, again, self.mesh.world)

    def most(self, value: float) -> float:
        """The largest of the ranks' values."""
        if self.mesh.grid is None:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.item()

    def total_load(self, load: Tensor) -> Tensor:
        """int64 counts of rows that experts of this rank's layers got, summed in place over all ranks.

        Ranks that route the same rows count them each, every expert's alike: its share is right.
        """
        group = self.mesh.group("stage")
        if group is not None:
            dist.all_reduce(load, group=group)
        return load

    def _sum_gradients(self) -> None:
        """What fsdp has not summed: over all ranks, or over those that hold the same experts."""
        tensor.sum_copied(self.parameters(), self.mesh)
        left = [parameter for parameter in self.parameters() if not fsdp.sums(parameter)]
        apart = {p for stack in expert.spread(self.module, self.plan) for p in stack.parameters()}
        sum_gradients((p for p in left if p not in apart), self.mesh.group("sum"))
        sum_gradients((p for p in left if p in apart), self.mesh.group("experts"))

    def _sum(self, value: float, line: str) -> float:
        group = self.mesh.group(line)
        if group is None:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, group=group)
        return total.item()


def parallelise(
    module: Network,
    plan: Plan,
    mesh: Mesh,
    dtype: torch.dtype,
    backend: str | None = None,
    *,
    float8: bool = False,
) -> ParallelModel:
    """Apply every technique of the plan, innermost first, and return what this rank trains.

    ``dtype`` is that of matrix work, ``float8`` says whether the blocks' products run in fp8 all the same,
    ``backend`` is that of torch.compile for the blocks (None: they run as written). Every rank must hold the
    same weights, or weights on the meta device.
    """
    if not isinstance(module, Decoder):
        if plan != Plan(dp=plan.dp):
            raise ConfigError(
                f"A {module.config.architecture} is trained alone or with dp alone; leave the rest of the "
                "plan out."
            )
        return ParallelModel(module, plan, mesh)
    expert.apply(module, plan, mesh)
    tensor.apply(module, plan, mesh)
    float8_products.apply(module, float8)
    compile.apply(module, backend)
    recompute.apply(module, plan)
    if plan.pp == 1:
        fsdp.apply(module, plan, mesh, dtype)
        return ParallelModel(module, plan, mesh)
    # PyTorch's pipelines bring its compiler along, which takes a second to import.
    from weft.parallel import pipeline

    line = pipeline.apply(module, plan, mesh)
    for stage in line.stages.values():
        fsdp.apply(stage, plan, mesh, dtype)
    return ParallelModel(line.held, plan, mesh, line)
