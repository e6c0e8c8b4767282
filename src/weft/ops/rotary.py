"""Query and key preparation: the optional RMSNorm of each head and the rotary turn, in one pass.

Dimensions: B batch rows, T positions, H heads, D head size.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from weft.ops.kernels import address, pointwise, whole
from weft.ops.norm import rms_norm_plain
from weft.ops.rope import rotate


def normed_rotary_plain(
    x_BTHD: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor
) -> Tensor:
    """Reference: rotate(rms_norm(x)), or rotate(x) without a weight."""
    normed = x_BTHD if weight is None else rms_norm_plain(x_BTHD, weight, eps)
    return rotate(normed, cos, sin)


def normed_rotary(x_BTHD: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """The fastest path this machine has for :func:`normed_rotary_plain`; [B, T, H, D], contiguous."""
    if pointwise(x_BTHD) is None or (weight is not None and weight.dtype != torch.float32):
        return normed_rotary_plain(x_BTHD, weight, eps, cos, sin)
    shape = (*x_BTHD.shape[:2], cos.shape[-1])
    cos, sin = cos.expand(shape).contiguous(), sin.expand(shape).contiguous()
    out: Tensor = _Fused.apply(x_BTHD.contiguous(), weight, eps, cos, sin)  # type: ignore[no-untyped-call]
    return out


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        found = pointwise(x)
        assert found is not None
        library, name = found
        B, T, H, D = x.shape
        y, inverse = torch.empty_like(x), torch.empty(B * T * H if weight is not None else 0)
        getattr(library, f"weft_rotary_forward_{name}")(
            *map(address, (x, weight, cos, sin, y, inverse)), *whole(B * T, H, D), ctypes.c_float(eps)
        )
        ctx.save_for_backward(x, weight, cos, sin, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, weight, cos, sin, inverse = ctx.saved_tensors
        found = pointwise(x)
        assert found is not None
        library, name = found
        B, T, H, D = x.shape
        dx, dweight = torch.empty_like(x), None if weight is None else torch.empty_like(weight)
        getattr(library, f"weft_rotary_backward_{name}")(
            *map(address, (x, weight, cos, sin, inverse, grads[0].contiguous(), dx, dweight)),
            *whole(B * T, H, D),
        )
        return dx, dweight, None, None, None
