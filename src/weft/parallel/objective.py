"""What a parallel model asks of an objective."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from weft.models import Decoder
from weft.parallel.rows import Rows
from weft.parallel.stage import Stage


class Loss(Protocol):
    """What a step minimises; an objective of the trainer."""

    def loss(self, model: Decoder, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of the rows."""
        ...

    def score(self, model: Decoder | Stage, hidden_BTE: Tensor, rows: Rows, scale: float) -> Tensor:
        """The same from final hidden states, on the last stage of a pipeline; it must not depend on
        anything else that the gradient goes through."""
        ...
