"""The plain twin of both kinds of context parallel: every rank gathers whole rows and attends to them.

For tests and for readers; it sends and computes what the others save.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from weft.ops.attention import attention_plain
from weft.parallel.cut import Cut


class GatheredRows:
    """The attention context of a rank that computes whole rows and keeps its own positions."""

    def __init__(self, cut: Cut):
        self.group, self.window, self.mine = cut.group, cut.window, cut.mine.to(cut.device)
        self.order = torch.cat(cut.places).argsort().to(cut.device)
        self.document_start = cut.document_start_BT.to(cut.device)
        self._positions = cut.positions()

    def positions(self, tokens_BP: Tensor) -> Tensor:
        """int64 [B, P]: 0 at the first token of each document, whichever rank holds it."""
        return self._positions

    def attend(self, layer: int, q_BPHD: Tensor, k_BPGD: Tensor, v_BPGD: Tensor) -> Tensor:
        """[B, P, H, D]; the same for every layer. All ranks of the line must call it together."""
        q, k, v = (self._whole(x) for x in (q_BPHD, k_BPGD, v_BPGD))
        return attention_plain(q, k, v, self.document_start, self.window)[:, self.mine]

    def _whole(self, x_BPND: Tensor) -> Tensor:
        """[B, T, N, D], in the order of the row."""
        parts: Tensor = _Gather.apply(x_BPND, self.group)  # type: ignore[no-untyped-call]
        return parts.flatten(1, 2)[:, self.order]


class _Gather(torch.autograd.Function):
    """[B, P, ...] -> [B, C, P, ...]; backwards each rank's part is summed over all that used it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = x.new_empty((group.size(), *x.shape))
        dist.all_gather(list(parts), x.contiguous(), group=group)
        return parts.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[:, ctx.group.rank()], None
