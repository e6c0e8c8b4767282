"""A micro-batch as this rank computes with it: tensors on its device, and what each position sees.

B rows, T positions of a row on this rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.data.batch import Batch, PairBatch
from weft.models.encdec import Pairs
from weft.ops.attention import PackedRows
from weft.ops.both_ways import BothWays
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


@dataclass(frozen=True)
class SeenRows:
    """What an encoder reads: as :class:`Rows`, and every position sees its whole document."""

    tokens: Tensor
    targets: Tensor
    context: BothWays


@dataclass(frozen=True)
class PairRows:
    """What an encoder-decoder reads; ``targets`` int64 [B, T] as in :class:`weft.data.batch.PairBatch`."""

    pairs: Pairs
    targets: Tensor


def seen(batch: Batch, device: torch.device) -> SeenRows:
    """A batch whose tokens stand in place, for an encoder."""
    tokens, targets, start = (
        torch.from_numpy(x).to(device) for x in (batch.tokens, batch.targets, batch.document_start)
    )
    return SeenRows(tokens, targets, BothWays(start))


def paired(batch: PairBatch, device: torch.device) -> PairRows:
    """A batch of pairs."""
    arrays = (batch.source, batch.source_pair, batch.tokens, batch.document_start, batch.target_pair)
    pairs = Pairs(*(torch.from_numpy(x).to(device) for x in arrays))
    return PairRows(pairs, torch.from_numpy(batch.targets).to(device))
