"""What differs between pretraining, fine-tuning, tagging or translation: the objective."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from weft.data.batch import Batch, PairBatch

AnyBatch = Batch | PairBatch
Kind = Literal["decoder", "encoder", "encdec"]


class Objective(Protocol):
    """A loss over batches. One trainer serves all objectives.

    ``kind``: the models it can train; batches and rows are what those read (:mod:`weft.parallel.rows`).
    """

    kind: Kind

    def count(self, batch: Any) -> int:
        """Targets of the batch: what the loss of a whole step is divided by."""
        ...

    def loss(self, model: Any, rows: Any, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of the rows, ready for backward."""
        ...

    def score(self, model: Any, hidden_BTE: Tensor, rows: Any, scale: float) -> Tensor:
        """The same from the model's final hidden states [B, T, E]: what the last stage of a pipeline does."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """An objective that measures more than its loss while it validates."""

    def figures(self) -> dict[str, float]:
        """Sums over what this rank scored in validation since the last call, always under the same names;
        what is recorded is their share of all targets."""
        ...


@runtime_checkable
class Deriving(Measuring, Protocol):
    """One of which other figures are recorded than shares."""

    def recorded(self, sums: dict[str, float], targets: int) -> dict[str, float]:
        """What is written down, from the sums of all ranks and the number of all targets."""
        ...
