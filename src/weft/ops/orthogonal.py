"""The nearest orthogonal matrix, roughly: a quintic Newton-Schulz iteration (Jordan et al. 2024).

It runs in bf16, or in fp32 on a CPU that has no bf16 instructions: products emulated in bf16 took two thirds
of a training step there. R rows and C columns of a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.arithmetic import has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
EPS = 1e-7


def orthogonalise(matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """bf16 [..., R, C] with singular values near 1 and the singular vectors of ``matrix``.

    ``dtype`` is that of the work: by default bf16 where the device has it in hardware, else fp32.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    if dtype is None:
        dtype = torch.bfloat16 if has_bfloat16(matrix.device) else torch.float32
    x = matrix.to(dtype)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = _fused(x, _fused(gram, gram, gram, b, c), x, a, 1.0)
    return (x.mT if tall else x).bfloat16()


def _fused(base: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """beta * base + alpha * left @ right."""
    if base.ndim == 2:
        return torch.addmm(base, left, right, beta=beta, alpha=alpha)
    return torch.baddbmm(base, left, right, beta=beta, alpha=alpha)
