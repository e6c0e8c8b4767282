"""A mixture of experts (arXiv:1701.06538): each token through the few feed-forwards chosen for it.

No token is ever dropped: an expert takes as many rows as come, none included. The plain reference masks
the tokens of one expert after another; the fast path sorts the rows by expert, so that each expert's are
one contiguous segment, and works segment by segment.

Dimensions: N tokens, K experts a token, X experts, M = N * K rows (a token once for each of its experts),
E model width, F feed-forward width of an expert.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.grouped import grouped_linear
from weft.ops.swiglu import swiglu


def experts_plain(
    x_NE: Tensor, index_NK: Tensor, share_NK: Tensor, gate_XFE: Tensor, up_XFE: Tensor, down_XEF: Tensor
) -> Tensor:
    """Reference, [N, E]: the sum over k of share[n, k] times SwiGLU of expert index[n, k] at x[n]."""
    rows_NKE = x_NE.new_zeros(*index_NK.shape, x_NE.shape[-1])
    for expert in range(gate_XFE.shape[0]):
        mine_NK = index_NK == expert
        rows = x_NE.unsqueeze(1).expand_as(rows_NKE)[mine_NK]
        gate, up, down = (w[expert].to(x_NE.dtype) for w in (gate_XFE, up_XFE, down_XEF))
        inner = (F.silu(F.linear(rows, gate).float()) * F.linear(rows, up).float()).to(x_NE.dtype)
        rows_NKE = rows_NKE.masked_scatter(mine_NK.unsqueeze(-1), F.linear(inner, down))
    return weighted_sum(rows_NKE, share_NK)


def expert_rows(
    rows_ME: Tensor, counts_X: Tensor, gate_XFE: Tensor, up_XFE: Tensor, down_XEF: Tensor
) -> Tensor:
    """[M, E]: rows sorted by expert through their experts; int64 ``counts`` says how many each has."""
    gate, up = (grouped_linear(rows_ME, weight, counts_X) for weight in (gate_XFE, up_XFE))
    return grouped_linear(swiglu(gate, up), down_XEF, counts_X)


class Order:
    """The rows of a batch sorted by expert; rows of one expert stay in the order of their tokens."""

    def __init__(self, index_NK: Tensor):
        self.shape = index_NK.shape
        self.order_M = index_NK.flatten().argsort(stable=True)
        self.place_NK = torch.empty_like(self.order_M)
        self.place_NK[self.order_M] = torch.arange(self.order_M.numel(), device=self.order_M.device)
        self.place_NK = self.place_NK.view(self.shape)

    def sort(self, x_NE: Tensor) -> Tensor:
        """[M, E]: the row of each token once for each of its experts, sorted by expert."""
        return gather(x_NE, self.order_M // self.shape[1], self.place_NK)

    def unsort(self, rows_ME: Tensor) -> Tensor:
        """[N, K, E]: back in the order of tokens."""
        rows = gather(rows_ME, self.place_NK.flatten(), self.order_M.unsqueeze(1))
        return rows.view(*self.shape, rows_ME.shape[-1])


def weighted_sum(rows_NKE: Tensor, share_NK: Tensor) -> Tensor:
    """[N, E] in the dtype of the rows: the sum over k of share[n, k] * rows[n, k], made in fp32."""
    return (rows_NKE.float() * share_NK.unsqueeze(-1)).sum(1).to(rows_NKE.dtype)


def load(index_NK: Tensor, experts: int) -> Tensor:
    """int64 [X]: rows that each expert gets."""
    flat = index_NK.flatten()
    return flat.new_zeros(experts).scatter_add_(0, flat, torch.ones_like(flat))


def gather(x: Tensor, index_M: Tensor, origin_NC: Tensor) -> Tensor:
    """x[index], [M, E]; row n of x goes to exactly the rows origin[n] of the result.

    So its gradient is the sum over c of gradient[origin[n, c]]: a gather, in one order, whatever the device
    and the number of threads, where the derivative of plain indexing adds in any order.
    """
    out: Tensor = _Gather.apply(x, index_M, origin_NC)  # type: ignore[no-untyped-call]
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, origin: Tensor) -> Tensor:
        ctx.save_for_backward(origin)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (origin,) = ctx.saved_tensors
        rows = grads[0].index_select(0, origin.flatten())
        return rows.view(*origin.shape, rows.shape[-1]).sum(1), None, None
