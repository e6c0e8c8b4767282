"""A micro-batch as this rank computes with it: tensors on its device, and what each position sees.

B rows, T positions of a row on this rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.data.batch import Batch
from weft.ops.attention import PackedRows
from weft.ops.cache import AttentionContext


@dataclass(frozen=True)
class Rows:
    """``tokens`` and ``targets`` int64 [B, T] (targets as in :class:`weft.data.batch.Batch`)."""

    tokens: Tensor
    targets: Tensor
    context: AttentionContext


def packed(batch: Batch, device: torch.device, window: int | None) -> Rows:
    """Whole rows: every position of the batch is on this rank."""
    tokens, targets, start = (
        torch.from_numpy(x).to(device) for x in (batch.tokens, batch.targets, batch.document_start)
    )
    return Rows(tokens, targets, PackedRows(start, window, whole=not batch.document_start.any()))
