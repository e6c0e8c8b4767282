"""What a parallel model asks of an objective."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Loss(Protocol):
    """What a step minimises; an objective of the trainer.

    Models and rows are those of its kind: a decoder with :class:`weft.parallel.rows.Rows`, an encoder with
    ``SeenRows``, an encoder-decoder with ``PairRows``.
    """

    def loss(self, model: Any, rows: Any, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of the rows."""
        ...

    def score(self, model: Any, hidden_BTE: Tensor, rows: Any, scale: float) -> Tensor:
        """The same from final hidden states, on the last stage of a pipeline of decoders; it must not depend
        on anything else that the gradient goes through."""
        ...
