"""Distillation of a large vocabulary, in chunks of positions, so that no full logits tensor exists.

Dimensions: N positions, E width of the student, F width of the teacher, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.loss import IGNORED, times

CHUNK = 512


@dataclass(frozen=True)
class Taught:
    """What a teacher says of N positions: its hidden states [N, F] and its output matrix [V, F].

    ``alpha``: the share of the teacher's distribution in the loss, the rest being the text's next token.
    ``temperature``: both logits are divided by it before they are compared.
    """

    hidden_NF: Tensor
    weight_VF: Tensor
    alpha: float
    temperature: float

    def logs(self, rows: slice) -> Tensor:
        """fp32: log probabilities at the temperature of these positions."""
        hidden = self.hidden_NF[rows]
        logits = F.linear(hidden, self.weight_VF.to(hidden.dtype)).float()
        return (logits / self.temperature).log_softmax(-1)


def distillation_plain(hidden_NE: Tensor, weight_VE: Tensor, targets_N: Tensor, taught: Taught) -> Tensor:
    """Reference: fp32 [N], ``alpha * T^2 * KL(teacher || student) + (1 - alpha) * cross entropy``.

    Both distributions of the divergence are at temperature T, whose square keeps its gradients as large as
    those of the cross entropy (Hinton et al. 2015, arXiv:1503.02531, section 2). 0 where the target is
    IGNORED.
    """
    logits = F.linear(hidden_NE, weight_VE.to(hidden_NE.dtype)).float()
    return _losses(logits, targets_N, taught.logs(slice(None)), taught)


def _losses(logits: Tensor, targets: Tensor, theirs: Tensor, taught: Taught) -> Tensor:
    """fp32 [n] from the student's logits and the teacher's log probabilities, fp32 [n, V]."""
    ours = (logits / taught.temperature).log_softmax(-1)
    apart = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1) * taught.temperature**2
    known = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    return (taught.alpha * apart + (1.0 - taught.alpha) * known) * (targets != IGNORED)


def summed_distillation(
    hidden_NE: Tensor,
    weight_VE: Tensor,
    targets_N: Tensor,
    taught: Taught,
    scale: float,
    chunk: int = CHUNK,
) -> Tensor:
    """``scale`` times the sum of :func:`distillation_plain`: fp32 scalar.

    As in :func:`weft.ops.loss.summed_cross_entropy` the gradient is made in the forward pass, so ``scale``
    must already hold the normalisation.
    """
    out: Tensor = _Chunked.apply(hidden_NE, weight_VE, targets_N, taught, scale, chunk)  # type: ignore[no-untyped-call]
    return out


def _slope(logits: Tensor, targets: Tensor, theirs: Tensor, taught: Taught) -> Tensor:
    """fp32 [n, V]: the gradient of the losses of n positions by their logits."""
    kept = (targets >= 0).unsqueeze(-1)
    index = targets.clamp(min=0).unsqueeze(-1)
    ours = (logits / taught.temperature).softmax(-1)
    slope = (ours - theirs.exp()).mul_(taught.alpha * taught.temperature)
    plain = logits.softmax(-1).scatter_add_(-1, index, torch.full_like(index, -1, dtype=logits.dtype))
    return slope.add_(plain, alpha=1.0 - taught.alpha).mul_(kept)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, taught: Taught, scale: float, chunk: int
    ) -> Tensor:
        work = weight.to(hidden.dtype)
        learns = any(ctx.needs_input_grad)
        dhidden = torch.empty_like(hidden) if learns else None
        # The master's dtype: chunks are many, and bf16 sums of them would round each time.
        dweight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), device=hidden.device, dtype=torch.float64)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            logits, theirs = F.linear(hidden[rows], work).float(), taught.logs(rows)
            total += _losses(logits, targets[rows], theirs, taught).sum(dtype=torch.float64)
            if dhidden is None:
                continue
            slope = _slope(logits, targets[rows], theirs, taught).mul_(scale).to(hidden.dtype)
            torch.mm(slope, work, out=dhidden[rows])
            if dweight is not None:
                dweight += slope.t() @ hidden[rows]
        ctx.save_for_backward(dhidden, None if dweight is None else dweight.to(weight.dtype))
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        dhidden, dweight = ctx.saved_tensors
        if dweight is None:
            return dhidden * grads[0], None, None, None, None, None
        return *times((dhidden, dweight), grads[0]), None, None, None, None
