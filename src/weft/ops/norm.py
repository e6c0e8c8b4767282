"""RMSNorm (arXiv:1910.07467): a plain reference and a fused path."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from weft.ops.kernels import address, pointwise, whole


def rms_norm_plain(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Reference: x / rms(x) * weight over the last dimension, in fp32, returned in the dtype of ``x``."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (scaled * weight.float()).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The fastest path this machine has for :func:`rms_norm_plain`."""
    if pointwise(x) is None or weight.dtype != torch.float32:
        return rms_norm_plain(x, weight, eps)
    out: Tensor = _Fused.apply(x.contiguous(), weight, eps)  # type: ignore[no-untyped-call]
    return out


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        found = pointwise(x)
        assert found is not None
        library, name = found
        width = x.shape[-1]
        y, inverse = torch.empty_like(x), torch.empty(x.numel() // width)
        getattr(library, f"weft_rms_norm_forward_{name}")(
            *map(address, (x, weight, y, inverse)), *whole(inverse.numel(), width), ctypes.c_float(eps)
        )
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        found = pointwise(x)
        assert found is not None
        library, name = found
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        getattr(library, f"weft_rms_norm_backward_{name}")(
            *map(address, (x, weight, inverse, grads[0].contiguous(), dx, dweight)),
            *whole(inverse.numel(), x.shape[-1]),
        )
        return dx, dweight, None
