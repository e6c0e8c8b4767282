"""Context parallel by an exchange of heads (DeepSpeed Ulysses, arXiv:2309.14509).

Before attention each rank gives every other its positions of that one's heads, and gets all positions of its
own heads; afterwards the outputs go back the same way. Attention itself is the one of a single process.

Dimensions: B rows, T positions a row, P = T / C positions of a rank, C ranks, H query heads, G key-value
heads (both multiples of C), D head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from weft.ops.attention import attention
from weft.parallel.cut import Cut


class HeadRows:
    """The attention context of one of the ranks that exchange heads."""

    def __init__(self, cut: Cut):
        """The places of ``cut`` must follow each other."""
        self.group, self.window = cut.group, cut.window
        self.document_start = cut.document_start_BT.to(cut.device)
        self._positions = cut.positions()

    def positions(self, tokens_BP: Tensor) -> Tensor:
        """int64 [B, P]: 0 at the first token of each document, whichever rank holds it."""
        return self._positions

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, layer: int, q_BPHD: Tensor, k_BPGD: Tensor, v_BPGD: Tensor) -> Tensor:
        """[B, P, H, D]; the same for every layer. All ranks of the line must call it together."""
        B, P, H, D = q_BPHD.shape
        ranks = self.group.size()
        heads = [x.shape[2] // ranks for x in (q_BPHD, k_BPGD, v_BPGD)]
        by_rank = [x.reshape(B, P, ranks, -1, D) for x in (q_BPHD, k_BPGD, v_BPGD)]
        mixed_CBPND = exchange(torch.cat(by_rank, 3).permute(2, 0, 1, 3, 4), self.group)
        whole_BTND = mixed_CBPND.transpose(0, 1).reshape(B, ranks * P, -1, D)
        q, k, v = torch.split(whole_BTND, heads, 2)
        out_BTHD = attention(q, k, v, self.document_start, self.window)
        pieces_CBPHD = out_BTHD.reshape(B, ranks, P, -1, D).transpose(0, 1)
        return exchange(pieces_CBPHD, self.group).permute(1, 2, 0, 3, 4).reshape(B, P, H, D)


def exchange(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[C, ...] -> [C, ...]: part i goes to rank i, and part i comes from rank i. Differentiable."""
    out: Tensor = _Exchange.apply(x, group)  # type: ignore[no-untyped-call]
    return out


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _swap(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _swap(grads[0], ctx.group), None


def _swap(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    dist.all_to_all_single(out, x, group=group)
    return out
