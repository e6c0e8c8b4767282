"""Cross entropy of a large vocabulary, in chunks of positions, so that no full logits tensor exists.

Dimensions: N positions, E model width, V vocabulary.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.core.errors import DataError
from weft.ops.kernels import address, pointwise, whole

IGNORED = -100


def cross_entropy_plain(hidden_NE: Tensor, weight_VE: Tensor, targets_N: Tensor) -> Tensor:
    """Reference: fp32 [N], -log softmax(hidden @ weight.T)[target]; 0 where the target is IGNORED."""
    logits = F.linear(hidden_NE, weight_VE.to(hidden_NE.dtype)).float()
    return F.cross_entropy(logits, targets_N, ignore_index=IGNORED, reduction="none")


def summed_cross_entropy(
    hidden_NE: Tensor, weight_VE: Tensor, targets_N: Tensor, scale: float, chunk: int = 1024
) -> Tensor:
    """``scale`` times the sum of :func:`cross_entropy_plain`: fp32 scalar.

    The gradient is made in the forward pass, chunk by chunk, while the logits are at hand (the idea of
    Liger Kernel, arXiv:2410.10989); so ``scale`` must already hold the normalisation, and the result may be
    scaled further but not squared or otherwise bent.
    """
    out: Tensor = _Chunked.apply(hidden_NE, weight_VE, targets_N, scale, chunk)  # type: ignore[no-untyped-call]
    return out


def losses_and_gradient(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """fp32 [N] losses; ``logits`` [N, V] are replaced by ``scale`` times their gradient.

    Raises DataError (or, without native kernels, what PyTorch does) for a target that is none of V.
    """
    found = pointwise(logits)
    losses = torch.empty(logits.shape[0], device=logits.device)
    if found is not None and logits.is_contiguous() and targets.dtype == torch.int64:
        library, name = found
        targets = targets.contiguous()
        wrong = getattr(library, f"weft_cross_entropy_{name}")(
            *map(address, (logits, targets, losses)), *whole(*logits.shape), ctypes.c_float(scale)
        )
        if wrong:
            raise DataError(
                f"A target is token {int(targets.max())}, but the model knows {logits.shape[1]} tokens; "
                "encode the data with the model's own tokenizer."
            )
        return losses
    logs = logits.float().log_softmax(-1)
    kept = targets >= 0
    index = targets.clamp(min=0).unsqueeze(-1)
    losses = -logs.gather(-1, index).squeeze(-1) * kept
    gradient = logs.exp().scatter_add(-1, index, torch.full_like(index, -1, dtype=logs.dtype))
    logits.copy_(gradient * (scale * kept).unsqueeze(-1))
    return losses


def times(made: tuple[Tensor, Tensor], grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients made in the forward pass, times what comes from above; mostly that is 1."""
    dhidden, dweight = made
    return (dhidden, dweight) if float(grad) == 1.0 else (dhidden * grad, dweight * grad)


def _without_gradient(hidden: Tensor, work: Tensor, targets: Tensor, chunk: int) -> Tensor:
    total = torch.zeros((), device=hidden.device, dtype=torch.float64)
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, start + chunk)
        total += cross_entropy_plain(hidden[rows], work, targets[rows]).sum(dtype=torch.float64)
    return total.float()


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, chunk: int
    ) -> Tensor:
        work = weight.to(hidden.dtype)
        if not any(ctx.needs_input_grad):
            return _without_gradient(hidden, work, targets, chunk) * scale
        dhidden = torch.empty_like(hidden)
        # The master's dtype: chunks are many, and bf16 sums of them would round each time.
        dweight = torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), device=hidden.device, dtype=torch.float64)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits = F.linear(hidden[rows], work)
            total += losses_and_gradient(logits, targets[rows], scale).sum(dtype=torch.float64)
            torch.mm(logits, work, out=dhidden[rows])
            dweight += logits.t() @ hidden[rows]
        ctx.save_for_backward(dhidden, dweight.to(weight.dtype))
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dhidden, dweight = times(ctx.saved_tensors, grads[0])
        return dhidden, dweight, None, None, None
