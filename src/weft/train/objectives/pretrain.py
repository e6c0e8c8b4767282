"""Causal language modelling: the next token of the same document."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.data.batch import Batch
from weft.models import Decoder
from weft.parallel.rows import Rows
from weft.parallel.stage import Stage
from weft.train.objectives.base import Kind


class Pretrain:
    """Cross entropy of the next token, in nats."""

    kind: Kind = "decoder"

    def count(self, batch: Batch) -> int:
        """Positions that carry loss."""
        return batch.target_count

    def loss(self, model: Decoder, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Decoder | Stage, hidden_BTE: Tensor, rows: Rows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]: what the last stage of a pipeline does."""
        return model.output.loss(hidden_BTE, rows.targets, scale)
