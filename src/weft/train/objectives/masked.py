"""Masked language modelling: the hidden tokens of a text seen from both sides (arXiv:1810.04805)."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.data.batch import Batch
from weft.models.encoder import Encoder
from weft.parallel.rows import SeenRows
from weft.train.objectives.base import Kind


class Masked:
    """Cross entropy of the hidden tokens, in nats."""

    kind: Kind = "encoder"

    def count(self, batch: Batch) -> int:
        """Hidden tokens."""
        return batch.target_count

    def loss(self, model: Encoder, rows: SeenRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Encoder, hidden_BTE: Tensor, rows: SeenRows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        return model.masked_loss(hidden_BTE, rows.targets, scale)
