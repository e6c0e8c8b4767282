"""SwiGLU's gate (arXiv:2002.05202): a plain reference and a fused path."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.kernels import address, pointwise, whole
from weft.ops.linear import rows_matter

_VECTORS = 64
"""A multiple of the numbers that PyTorch works on at once, on any processor."""


def swiglu_plain(gate: Tensor, up: Tensor) -> Tensor:
    """Reference: silu(gate) * up, in fp32, returned in the dtype of ``gate``."""
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """The fastest path this machine has for :func:`swiglu_plain`."""
    if pointwise(gate) is None:
        if rows_matter(gate):
            # PyTorch computes what its vectors leave over in another way, so nothing is left over.
            room = (0, -gate.shape[-1] % _VECTORS)
            return swiglu_plain(F.pad(gate, room), F.pad(up, room))[..., : gate.shape[-1]]
        return swiglu_plain(gate, up)
    out: Tensor = _Fused.apply(gate.contiguous(), up.contiguous())  # type: ignore[no-untyped-call]
    return out


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        found = pointwise(gate)
        assert found is not None
        library, name = found
        y = torch.empty_like(gate)
        getattr(library, f"weft_swiglu_forward_{name}")(*map(address, (gate, up, y)), *whole(gate.numel()))
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        found = pointwise(gate)
        assert found is not None
        library, name = found
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        getattr(library, f"weft_swiglu_backward_{name}")(
            *map(address, (gate, up, grads[0].contiguous(), dgate, dup)), *whole(gate.numel())
        )
        return dgate, dup
