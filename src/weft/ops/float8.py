"""Matrix products in 8-bit floating point (E4M3, arXiv:2209.05433), for GPUs that have it.

Each row of the left side and each column of the right one has a scale of its own, taken from its largest
number when the product is made (dynamic row-wise scaling). The product with weights and the one that
gives the gradient of the input run in fp8; the gradient of a weight, a sum over all tokens, runs in the work
dtype.

Dimensions: M rows of all sequences, K input features, N output features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(DTYPE).max
MULTIPLE = 16
"""What K and N must be multiples of: the kernels read 16 bytes at once."""
CAPABILITY = (8, 9)
"""The first NVIDIA GPUs that have it: Ada, then Hopper."""


def has_float8(device: torch.device) -> bool:
    """Whether the device multiplies fp8 in hardware."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[R, C] as E4M3 [R, C] and the fp32 scale of each row [R, 1]; their product is about the input."""
    scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(DTYPE), scale


def product(left: Tensor, right: Tensor) -> Tensor:
    """left [M, K] @ right [N, K].T in fp8, [M, N] in the dtype of ``left``; sums are kept in fp32."""
    a, a_scale = quantise(left)
    b, b_scale = quantise(right)
    return torch._scaled_mm(a, b.t(), a_scale, b_scale.t(), out_dtype=left.dtype)


def product_plain(left: Tensor, right: Tensor) -> Tensor:
    """The same rounding, multiplied in fp32."""
    a, a_scale = quantise(left)
    b, b_scale = quantise(right)
    return ((a.float() * a_scale) @ (b.float() * b_scale).t()).to(left.dtype)


class _Float8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x_MK, weight_NK)
        return product(x_MK, weight_NK)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x_MK, weight_NK = ctx.saved_tensors
        (out_MN,) = gradients
        out_MN = out_MN.contiguous()
        return product(out_MN, weight_NK.t().contiguous()), out_MN.t() @ x_MK


def float8_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As :func:`weft.ops.linear.linear`, ``x`` [..., K] and ``weight`` [N, K], with the products in fp8."""
    work = weight.to(x.dtype)
    out: Tensor = _Float8Linear.apply(x.flatten(0, -2), work)  # type: ignore[no-untyped-call]
    out = out.view(*x.shape[:-1], work.shape[0])
    return out if bias is None else out + bias.to(out.dtype)
