"""Log probabilities of single targets, in chunks of positions, so that no full logits tensor exists.

For losses that are no sum over tokens (preferences compare whole answers): what a token weighs is known only
in the backward pass, which makes the logits of each chunk again (arXiv:1604.06174).

Dimensions: N positions, E model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.loss import cross_entropy_plain

CHUNK = 1024


def log_probabilities_plain(hidden_NE: Tensor, weight_VE: Tensor, targets_N: Tensor) -> Tensor:
    """Reference: fp32 [N], log softmax(hidden @ weight.T)[target]."""
    return -cross_entropy_plain(hidden_NE, weight_VE, targets_N)


def log_probabilities(hidden_NE: Tensor, weight_VE: Tensor, targets_N: Tensor, chunk: int = CHUNK) -> Tensor:
    """:func:`log_probabilities_plain` with at most ``chunk`` rows of logits at a time, backward too.

    Every target is a token. Products run in the dtype of ``hidden``, everything else in fp32.
    """
    out: Tensor = _Again.apply(hidden_NE, weight_VE, targets_N, chunk)  # type: ignore[no-untyped-call]
    return out


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        work = weight.to(hidden.dtype)
        found = torch.empty(len(hidden), device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            found[rows] = log_probabilities_plain(hidden[rows], work, targets[rows])
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk = chunk
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        work, (above,) = weight.to(hidden.dtype), grads
        dhidden = torch.empty_like(hidden)
        # The master's dtype: chunks are many, and bf16 sums of them would round each time. A frozen matrix
        # (with adapters) needs none.
        dweight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            index = targets[rows].unsqueeze(-1)
            shares = F.linear(hidden[rows], work).float().softmax(-1).neg_()
            slope = shares.scatter_add_(-1, index, torch.ones_like(index, dtype=shares.dtype))
            slope = slope.mul_(above[rows].unsqueeze(-1)).to(hidden.dtype)
            torch.mm(slope, work, out=dhidden[rows])
            if dweight is not None:
                dweight += slope.t() @ hidden[rows]
        return dhidden, None if dweight is None else dweight.to(weight.dtype), None, None
