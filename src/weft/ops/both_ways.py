"""Attention that looks both ways within a document, over packed rows: a plain reference and fast paths.

Dimensions: B batch rows, T positions, H heads, D head size. Position i of a row sees j when both belong to
the same document and, with a reach, ``|i - j| <= reach``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.attention import NativeAttention
from weft.ops.spans import Spans, native, seen, spans_plain


def both_ways_plain(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """Reference: every score written out, in fp32; position i sees the keys [first, end) (int32 [B, T])."""
    out, _ = spans_plain(q_BTHD, k_BTHD, v_BTHD, Spans(first, end, ()))
    return out


def both_ways(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """The fastest path this machine has for :func:`both_ways_plain`. Returns [B, T, H, D]."""
    if native(q_BTHD):
        found: Tensor = NativeAttention.apply(q_BTHD, k_BTHD, v_BTHD, first, end)  # type: ignore[no-untyped-call]
        return found
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTHD, v_BTHD))
    mask = seen(first, end, range(k_BTHD.shape[1])).unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class BothWays:
    """What each position of packed rows sees; the attention context of an encoder.

    ``document_start`` int32 [B, T] as in :class:`weft.data.batch.Batch`: padding positions are documents of
    one token each, so every position sees at least itself.
    """

    def __init__(self, document_start_BT: Tensor):
        start = document_start_BT.int().contiguous()
        self._start = start
        self._end = torch.searchsorted(start, start, right=True, out_int32=True)
        self._near: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def start(self) -> Tensor:
        """int32 [B, T]: where the document of each position begins."""
        return self._start

    @property
    def end(self) -> Tensor:
        """int32 [B, T]: one past the last position of the document of each position."""
        return self._end

    def positions(self) -> Tensor:
        """int64 [B, T]: 0 at the first token of each document."""
        index = torch.arange(self._start.shape[1], device=self._start.device)
        return index - self._start.long()

    def attend(self, q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, reach: int | None) -> Tensor:
        """[B, T, H, D]; scores are scaled by 1/sqrt(D)."""
        first, end = (self._start, self._end) if reach is None else self._within(reach)
        return both_ways(q_BTHD, k_BTHD, v_BTHD, first, end)

    def _within(self, reach: int) -> tuple[Tensor, Tensor]:
        if reach not in self._near:
            index = torch.arange(self._start.shape[1], dtype=torch.int32, device=self._start.device)
            first = torch.maximum(self._start, index - reach)
            self._near[reach] = first, torch.minimum(self._end, index + reach + 1)
        return self._near[reach]
