"""Causal attention over packed documents: a plain reference and the fast paths.

Dimensions: B batch rows, T positions, H query heads, G key-value heads (H a multiple of G), D head size.
Position i of a row sees j when ``document_start[i] <= j <= i`` and, with a window, ``i - j < window``.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.kernels import address, kernels, usable


def visible(document_start_BT: Tensor, window: int | None = None) -> Tensor:
    """bool [B, T, T]: which key j (last) each query i sees."""
    T = document_start_BT.shape[1]
    index = torch.arange(T, device=document_start_BT.device)
    mask = (index <= index[:, None]) & (index >= document_start_BT.unsqueeze(-1))
    return mask & (index[:, None] - index < window) if window is not None else mask


def attention_plain(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, document_start_BT: Tensor, window: int | None = None
) -> Tensor:
    """Reference: softmax(q k^T / sqrt(D)) v with every score written out, in fp32. Returns [B, T, H, D]."""
    repeat = q_BTHD.shape[2] // k_BTGD.shape[2]
    k, v = (x.float().repeat_interleave(repeat, dim=2) for x in (k_BTGD, v_BTGD))
    scores = torch.einsum("bihd,bjhd->bhij", q_BTHD.float(), k) * q_BTHD.shape[-1] ** -0.5
    hidden = ~visible(document_start_BT, window).unsqueeze(1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v).to(q_BTHD.dtype)


def attention_sdpa(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, document_start_BT: Tensor, window: int | None = None
) -> Tensor:
    """PyTorch's scaled_dot_product_attention under the packed mask. Returns [B, T, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTGD, v_BTGD))
    mask = visible(document_start_BT, window).unsqueeze(1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return mixed.transpose(1, 2)


def attention(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, document_start_BT: Tensor, window: int | None = None
) -> Tensor:
    """The fastest path this machine has for :func:`attention_plain`. Returns [B, T, H, D]."""
    q = q_BTHD
    native = usable(q) and q.dtype == torch.bfloat16 and q.shape[-1] % 32 == 0
    if not native or kernels().attention is None:
        return attention_sdpa(q, k_BTGD, v_BTGD, document_start_BT, window)
    q, k, v, start = (x.contiguous() for x in (q, k_BTGD, v_BTGD, document_start_BT.int()))
    out: Tensor = _Native.apply(q, k, v, start, window or 0)  # type: ignore[no-untyped-call]
    return out


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, start: Tensor, window: int) -> Tensor:
        library = kernels().attention
        assert library is not None
        B, T, H, _ = q.shape
        out, lse = torch.empty_like(q), torch.empty(B, H, T)
        library.weft_attention_forward(*map(address, (q, k, v, start, out, lse)), *_sizes(q, k, window))
        ctx.save_for_backward(q, k, v, start, out, lse)
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, start, out, lse = ctx.saved_tensors
        library = kernels().attention
        assert library is not None
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        tensors = (q, k, v, start, out, lse, grads[0].contiguous(), dq, dk, dv)
        library.weft_attention_backward(*map(address, tensors), *_sizes(q, k, ctx.window))
        return dq, dk, dv, None, None


def _sizes(q: Tensor, k: Tensor, window: int) -> list[Any]:
    B, T, H, D = q.shape
    return [*(ctypes.c_int(n) for n in (B, T, H, k.shape[2], D, window)), ctypes.c_float(D**-0.5)]


class PackedRows:
    """The attention context of training and evaluation: rows of packed documents, no cache."""

    def __init__(self, document_start_BT: Tensor, window: int | None = None):
        self.document_start, self.window = document_start_BT, window

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int64 [B, T]: 0 at the first token of each document."""
        index = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return index - self.document_start.long()

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[B, T, H, D]; the same for every layer."""
        return attention(q_BTHD, k_BTGD, v_BTGD, self.document_start, self.window)
