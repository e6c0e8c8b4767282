"""Causal attention over packed documents: a plain reference and the fast paths.

Dimensions: B batch rows, T positions, H query heads, G key-value heads (H a multiple of G), D head size.
Position i of a row sees j when ``document_start[i] <= j <= i`` and, with a window, ``i - j < window``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.spans import native, native_backward, native_forward


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
    k, v = repeat_heads(k_BTGD.float(), v_BTGD.float(), q_BTHD.shape[2])
    scores = torch.einsum("bihd,bjhd->bhij", q_BTHD.float(), k) * q_BTHD.shape[-1] ** -0.5
    hidden = ~visible(document_start_BT, window).unsqueeze(1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v).to(q_BTHD.dtype)


def attention_sdpa(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, document_start_BT: Tensor, window: int | None = None
) -> Tensor:
    """PyTorch's scaled_dot_product_attention under the packed mask. Returns [B, T, H, D]."""
    if q_BTHD.device.type == "cuda":
        # The fused kernel that takes a mask there takes no grouped queries, and all scores would be written.
        k_BTGD, v_BTGD = repeat_heads(k_BTGD, v_BTGD, q_BTHD.shape[2])
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTGD, v_BTGD))
    mask = visible(document_start_BT, window).unsqueeze(1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return mixed.transpose(1, 2)


def attention_causal(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
    """The same where every row is one document and no window hides any of it: no mask is made, so that
    PyTorch may take its flash kernel. Returns [B, T, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTGD, v_BTGD))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return mixed.transpose(1, 2)


def repeat_heads(k_BTGD: Tensor, v_BTGD: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values once for each query head, [B, T, H, D]."""
    repeat = heads // k_BTGD.shape[2]
    return k_BTGD.repeat_interleave(repeat, dim=2), v_BTGD.repeat_interleave(repeat, dim=2)


def attention(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, document_start_BT: Tensor, window: int | None = None
) -> Tensor:
    """The fastest path this machine has for :func:`attention_plain`. Returns [B, T, H, D]."""
    if not native(q_BTHD):
        return attention_sdpa(q_BTHD, k_BTGD, v_BTGD, document_start_BT, window)
    first, end = packed_spans(document_start_BT, window)
    out: Tensor = NativeAttention.apply(q_BTHD, k_BTGD, v_BTGD, first, end)  # type: ignore[no-untyped-call]
    return out


def packed_spans(document_start_BT: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """int32 [B, T] twice: the first key that each position of packed rows sees, and one past the last."""
    first = document_start_BT.int()
    index = torch.arange(first.shape[1], dtype=torch.int32, device=first.device)
    if window is not None:
        first = torch.maximum(first, index - (window - 1))
    return first, (index + 1).expand_as(first)


class NativeAttention(torch.autograd.Function):
    """The native kernel: (q, k, v, first, end) -> out; queries see the keys [first, end), int32 [B, T]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, first: Tensor, end: Tensor) -> Tensor:
        out, lse = native_forward(q, k, v, first, end)
        ctx.save_for_backward(q, k, v, first, end, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, first, end, out, lse = ctx.saved_tensors
        return *native_backward(grads[0], q, k, v, out, lse, first, end), None, None


class PackedRows:
    """The attention context of training and evaluation: rows of packed documents, no cache.

    ``whole``: every row is known to be one document, which no device has to be asked.
    """

    def __init__(self, document_start_BT: Tensor, window: int | None = None, *, whole: bool = False):
        self.document_start, self.window = document_start_BT, window
        self.causal = whole and (window is None or window >= document_start_BT.shape[1])

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int64 [B, T]: 0 at the first token of each document."""
        index = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return index - self.document_start.long()

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[B, T, H, D]; the same for every layer."""
        if self.causal and not native(q_BTHD):
            return attention_causal(q_BTHD, k_BTGD, v_BTGD)
        return attention(q_BTHD, k_BTGD, v_BTGD, self.document_start, self.window)
