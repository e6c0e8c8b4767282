"""What differs between pretraining, fine-tuning, preference training and distillation: the objective."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from weft.data.batch import Batch
from weft.models import Decoder
from weft.parallel.rows import Rows
from weft.parallel.stage import Stage


class Objective(Protocol):
    """A loss over batches. One trainer serves all objectives."""

    def count(self, batch: Batch) -> int:
        """Targets of the batch: what the loss of a whole step is divided by."""
        ...

    def loss(self, model: Decoder, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of the rows, ready for backward."""
        ...

    def score(self, model: Decoder | Stage, hidden_BTE: Tensor, rows: Rows, scale: float) -> Tensor:
        """The same from final hidden states [B, T, E]: what the last stage of a pipeline does."""
        ...
