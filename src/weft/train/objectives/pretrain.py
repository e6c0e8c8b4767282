"""Causal language modelling: the next token of the same document."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.data.batch import Batch
from weft.models import Decoder
from weft.ops.attention import PackedRows
from weft.ops.loss import summed_cross_entropy


class Pretrain:
    """Cross entropy of the next token, in nats."""

    def count(self, batch: Batch) -> int:
        """Positions that carry loss."""
        return batch.target_count

    def loss(self, model: Decoder, batch: Batch, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy; matrix work in ``dtype``."""
        device = model.embedding.weight.device
        tokens, targets, start = (
            torch.from_numpy(x).to(device) for x in (batch.tokens, batch.targets, batch.document_start)
        )
        hidden = model(tokens, PackedRows(start, model.config.sliding_window), dtype)
        return summed_cross_entropy(hidden.flatten(0, 1), model.output.weight, targets.flatten(), scale)
