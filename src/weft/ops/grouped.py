"""A product of each contiguous segment of rows with a matrix of its own: the linear layers of experts.

Dimensions: M rows, X matrices, I inputs, O outputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.linear import linear_rows, rows_matter


def grouped_linear_plain(x_MI: Tensor, weight_XOI: Tensor, counts_X: Tensor) -> Tensor:
    """Reference, [M, O] in the dtype of x: counts[0] rows times weight[0].T, the next times weight[1].T."""
    parts = torch.split(x_MI, counts_X.tolist())
    return torch.cat([F.linear(part, w.to(x_MI.dtype)) for part, w in zip(parts, weight_XOI, strict=True)])


def grouped_linear(x_MI: Tensor, weight_XOI: Tensor, counts_X: Tensor) -> Tensor:
    """The fastest path this machine has for :func:`grouped_linear_plain`; M is the sum of ``counts``.

    Gradients reach the master in the master's dtype; a matrix without rows gets zeros.
    """
    out: Tensor = _Grouped.apply(x_MI, weight_XOI.to(x_MI.dtype), counts_X)  # type: ignore[no-untyped-call]
    return out


def has_kernel(x_MI: Tensor, weight_XOI: Tensor) -> bool:
    """Whether PyTorch has a kernel for all segments at once, which also spares reading the counts.

    On a CPU its grouped product is a loop over segments, no faster than ours (docs/experiments.md).
    """
    aligned = all(size % 8 == 0 for size in weight_XOI.shape[1:])
    return x_MI.device.type == "cuda" and x_MI.dtype == torch.bfloat16 and aligned


class _Grouped(torch.autograd.Function):
    """Each gradient is written once; autograd's own would add X tensors as large as all the matrices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, counts)
        if has_kernel(x, weight):
            return F.grouped_mm(x, weight.mT, offs=_ends(counts))
        y = x.new_empty(x.shape[0], weight.shape[1])
        for expert, rows in _segments(counts):
            if rows_matter(x):
                y[rows] = linear_rows(x[rows], weight[expert], None)
            else:
                torch.mm(x[rows], weight[expert].t(), out=y[rows])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, counts = ctx.saved_tensors
        dy = grads[0].contiguous()
        if has_kernel(x, weight):
            ends = _ends(counts)
            return F.grouped_mm(dy, weight, offs=ends), F.grouped_mm(dy.mT, x, offs=ends), None
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
        for expert, rows in _segments(counts):
            torch.mm(dy[rows], weight[expert], out=dx[rows])
            torch.mm(dy[rows].t(), x[rows], out=dweight[expert])
        return dx, dweight, None


def _ends(counts: Tensor) -> Tensor:
    return counts.cumsum(0).to(torch.int32)


def _segments(counts: Tensor) -> list[tuple[int, slice]]:
    """Matrices that have rows, and which."""
    bounds = [0, *counts.cumsum(0).tolist()]
    return [(i, slice(a, b)) for i, (a, b) in enumerate(pairwise(bounds)) if b > a]
