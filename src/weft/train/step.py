"""One optimiser step: micro-batches, the global normalisation, clipping, the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from weft.core.errors import TrainingError
from weft.parallel.model import ParallelModel
from weft.train.objectives.base import AnyBatch, Objective
from weft.train.optim import Optimizer


@dataclass(frozen=True)
class StepResult:
    """``loss``: mean over the step's targets; ``gradient_norm``: before clipping; ``targets``: counted."""

    loss: float
    gradient_norm: float
    targets: int


class Step:
    """Accumulates micro-batches so that their sum is the large batch: every target weighs the same."""

    def __init__(
        self,
        model: ParallelModel,
        objective: Objective,
        optimizer: Optimizer,
        clip: float,
        dtype: torch.dtype,
    ):
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.clip, self.dtype = clip, dtype

    def run(self, micro_batches: Sequence[AnyBatch], factor: float) -> StepResult:
        """Train on this rank's micro-batches of one batch at ``factor`` times the peak learning rate.

        Raises TrainingError, on every rank and before the weights are touched, when the loss or a gradient
        is not finite.
        """
        targets = self.model.count(sum(self.objective.count(batch) for batch in micro_batches))
        scale = 1.0 / max(targets, 1)
        loss = self.model.accumulate(self.objective, micro_batches, scale, self.dtype)
        norm = self.model.clip(self.clip)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            ranks = self.model.suspects(self.objective, micro_batches, scale, self.dtype)
            where = f", first in rank {', '.join(map(str, ranks))}" if ranks else ""
            raise TrainingError(
                f"the loss became {loss:g} with a gradient norm of {norm:g}{where}; "
                "lower optimizer.learning_rate or look at the data of this step",
                ranks,
            )
        self.optimizer.step(factor)
        return StepResult(loss, norm, targets)
