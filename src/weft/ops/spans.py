"""Attention of queries that each see one range of keys, with the log-sum-exp by which parts are merged.

Attention over all keys is the merge of attentions over parts of them (arXiv:2112.05682): the keys may lie on
other ranks or come one piece after the other. Backward passes take the merged output and log-sum-exp, and
give each part's share of the gradients.

Dimensions: B rows, S queries, U keys, H query heads, G key-value heads (H a multiple of G), D head size.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weft.ops.kernels import address, kernels, usable

CHUNK = 256
"""Queries that the paths in PyTorch take at once: less is masked away in vain, and no S x U scores exist."""


class Tile(NamedTuple):
    """Queries [s0, s1) and the keys [u0, u1) that they reach; ``whole``: all of them see all of these."""

    s0: int
    s1: int
    u0: int
    u1: int
    whole: bool


@dataclass(frozen=True)
class Spans:
    """Query s of row b sees the keys ``first_BS[b, s] <= u < end_BS[b, s]`` (int32), none when they cross.

    ``tiles`` says the same for stretches of queries, in numbers of the host.
    """

    first_BS: Tensor
    end_BS: Tensor
    tiles: tuple[Tile, ...]

    @classmethod
    def of(cls, first_BS: Tensor, end_BS: Tensor, device: torch.device | None = None) -> Spans:
        """Spans on ``device``; give them on the host, since the tiles are read from them."""
        first_BS, end_BS = first_BS.int().contiguous(), end_BS.int().contiguous()
        tiles = []
        for s0 in range(0, first_BS.shape[1], CHUNK):
            first, end = first_BS[:, s0 : s0 + CHUNK], end_BS[:, s0 : s0 + CHUNK]
            seeing = first < end
            if seeing.any():
                u0, u1 = int(first[seeing].min()), int(end[seeing].max())
                whole = bool(((first <= u0) & (end >= u1)).all())
                tiles.append(Tile(s0, s0 + first.shape[1], u0, u1, whole))
        return cls(first_BS.to(device), end_BS.to(device), tuple(tiles))

    @property
    def blind(self) -> bool:
        """Whether no query sees any key."""
        return not self.tiles


def seen(first_BS: Tensor, end_BS: Tensor, keys: range) -> Tensor:
    """bool [B, S, U]: which of ``keys`` each query sees."""
    u = torch.arange(keys.start, keys.stop, device=first_BS.device)
    return (u >= first_BS.unsqueeze(-1)) & (u < end_BS.unsqueeze(-1))


def spans_plain(q_BSHD: Tensor, k_BUGD: Tensor, v_BUGD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Reference, every score written out in fp32: (out [B, S, H, D] as q, fp32 log-sum-exp [B, H, S]).

    A query that sees no key gets zeros and a log-sum-exp of -infinity.
    """
    scores, hidden = _scores(q_BSHD, k_BUGD, spans)
    lse_BHS = scores.logsumexp(-1)
    weights = (scores - lse_BHS.unsqueeze(-1)).exp().masked_fill(hidden, 0.0)
    out = torch.einsum("bhsu,buhd->bshd", weights, _repeated(v_BUGD, q_BSHD.shape[2]))
    return out.to(q_BSHD.dtype), lse_BHS


def spans_plain_backward(
    grad_BSHD: Tensor, q_BSHD: Tensor, k_BUGD: Tensor, v_BUGD: Tensor, out: Tensor, lse: Tensor, spans: Spans
) -> tuple[Tensor, Tensor, Tensor]:
    """Reference of :func:`spans_backward`: the formulas of FlashAttention (arXiv:2205.14135), fp32."""
    H, scale = q_BSHD.shape[2], q_BSHD.shape[-1] ** -0.5
    grad, q, k, v = grad_BSHD.float(), q_BSHD.float(), _repeated(k_BUGD, H), _repeated(v_BUGD, H)
    scores, hidden = _scores(q_BSHD, k_BUGD, spans)
    weights = (scores - lse.unsqueeze(-1)).exp().masked_fill(hidden, 0.0)
    delta = (grad * out.float()).sum(-1).transpose(1, 2).unsqueeze(-1)
    dscores = weights * (torch.einsum("bshd,buhd->bhsu", grad, v) - delta) * scale
    dq = torch.einsum("bhsu,buhd->bshd", dscores, k)
    dk = _summed(torch.einsum("bhsu,bshd->buhd", dscores, q), k_BUGD.shape[2])
    dv = _summed(torch.einsum("bhsu,bshd->buhd", weights, grad), v_BUGD.shape[2])
    return dq.to(q_BSHD.dtype), dk.to(k_BUGD.dtype), dv.to(v_BUGD.dtype)


def _repeated(x_BUGD: Tensor, heads: int) -> Tensor:
    return x_BUGD.float().repeat_interleave(heads // x_BUGD.shape[2], dim=2)


def _summed(x_BUHD: Tensor, groups: int) -> Tensor:
    """[B, U, G, D]: what the query heads of each key-value head give, summed."""
    B, U, H, D = x_BUHD.shape
    return x_BUHD.reshape(B, U, groups, H // groups, D).sum(3)


def _scores(q_BSHD: Tensor, k_BUGD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Scaled scores [B, H, S, U], -infinity where ``hidden`` (bool [B, 1, S, U])."""
    scores = torch.einsum("bshd,buhd->bhsu", q_BSHD.float(), _repeated(k_BUGD, q_BSHD.shape[2]))
    hidden = ~seen(spans.first_BS, spans.end_BS, range(k_BUGD.shape[1])).unsqueeze(1)
    return (scores * q_BSHD.shape[-1] ** -0.5).masked_fill(hidden, float("-inf")), hidden


def spans_forward(q_BSHD: Tensor, k_BUGD: Tensor, v_BUGD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """The fastest path this machine has for :func:`spans_plain`. No autograd."""
    if native(q_BSHD):
        return native_forward(q_BSHD, k_BUGD, v_BUGD, spans.first_BS, spans.end_BS)
    B, S, H, _ = q_BSHD.shape
    out, lse = torch.zeros_like(q_BSHD), q_BSHD.new_full((B, H, S), float("-inf"), dtype=_wide(q_BSHD))
    for tile in spans.tiles:
        q, k, v, part = _cut(q_BSHD, k_BUGD, v_BUGD, spans, tile)
        out[:, tile.s0 : tile.s1], lse[..., tile.s0 : tile.s1] = _tile_forward(q, k, v, part, tile)
    return out, lse


def spans_backward(
    grad_BSHD: Tensor, q_BSHD: Tensor, k_BUGD: Tensor, v_BUGD: Tensor, out: Tensor, lse: Tensor, spans: Spans
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of these keys, in the dtypes of q, k, v, or fp32 where several tiles were summed.

    ``out`` [B, S, H, D] and ``lse`` [B, H, S] may be merged over more keys than ``k`` and ``v`` hold.
    """
    if native(q_BSHD):
        return native_backward(grad_BSHD, q_BSHD, k_BUGD, v_BUGD, out, lse, spans.first_BS, spans.end_BS)
    dq = torch.zeros_like(q_BSHD)
    dk, dv = (torch.zeros_like(x, dtype=_wide(x)) for x in (k_BUGD, v_BUGD))
    for tile in spans.tiles:
        rows, keys = slice(tile.s0, tile.s1), slice(tile.u0, tile.u1)
        q, k, v, part = _cut(q_BSHD, k_BUGD, v_BUGD, spans, tile)
        parts = _tile_backward(grad_BSHD[:, rows], q, k, v, out[:, rows], lse[..., rows], part, tile)
        dq[:, rows] = parts[0]
        dk[:, keys] += parts[1]
        dv[:, keys] += parts[2]
    return dq, dk, dv


def merge(out_BSHD: Tensor, lse_BHS: Tensor, more_BSHD: Tensor, more_lse_BHS: Tensor) -> None:
    """Into fp32 ``out`` and ``lse``, in place: attention over more keys. Every query has seen one before."""
    weight = torch.sigmoid(more_lse_BHS - lse_BHS).transpose(1, 2).unsqueeze(-1)
    out_BSHD.lerp_(more_BSHD.to(out_BSHD.dtype), weight)
    torch.logaddexp(lse_BHS, more_lse_BHS, out=lse_BHS)


def _wide(x: Tensor) -> torch.dtype:
    """What parts are summed in: fp32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def _cut(q: Tensor, k: Tensor, v: Tensor, spans: Spans, tile: Tile) -> tuple[Tensor, Tensor, Tensor, Spans]:
    """The inputs of one tile; its spans count keys from the tile's first."""
    rows, keys = slice(tile.s0, tile.s1), slice(tile.u0, tile.u1)
    part = Spans(spans.first_BS[:, rows] - tile.u0, spans.end_BS[:, rows] - tile.u0, ())
    return q[:, rows], k[:, keys], v[:, keys], part


def _tile_forward(q: Tensor, k: Tensor, v: Tensor, spans: Spans, tile: Tile) -> tuple[Tensor, Tensor]:
    if q.device.type != "cpu":
        return spans_plain(q, k, v, spans)
    mask, scale = _additive(q, spans, tile), q.shape[-1] ** -0.5
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = flash(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
    if mask is not None:
        # The kernel says 0 where a query sees nothing.
        lse = lse.masked_fill(_blind(spans), float("-inf"))
    return out.transpose(1, 2), lse


def _tile_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spans: Spans, tile: Tile
) -> tuple[Tensor, Tensor, Tensor]:
    if q.device.type != "cpu":
        return spans_plain_backward(grad, q, k, v, out, lse, spans)
    mask, scale = _additive(q, spans, tile), q.shape[-1] ** -0.5
    heads = [x.transpose(1, 2) for x in (grad, q, k, v, out)]
    if mask is not None:
        lse = lse.masked_fill(_blind(spans), 0.0)
    # The kernel writes its log-sum-exp with the heads innermost, and reads it so.
    lse = lse.transpose(1, 2).contiguous().transpose(1, 2)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    dq, dk, dv = flash(*heads, lse, 0.0, False, attn_mask=mask, scale=scale)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def _blind(spans: Spans) -> Tensor:
    """bool [B, 1, S]: which queries see no key."""
    return (spans.first_BS >= spans.end_BS).unsqueeze(1)


def _additive(q: Tensor, spans: Spans, tile: Tile) -> Tensor | None:
    if tile.whole:
        return None
    hidden = ~seen(spans.first_BS, spans.end_BS, range(tile.u1 - tile.u0)).unsqueeze(1)
    return torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, float("-inf"))


def native(q: Tensor) -> bool:
    """Whether the native kernel takes these queries: bf16 on a processor with its instructions."""
    fits = usable(q) and q.dtype == torch.bfloat16 and q.shape[-1] % 32 == 0
    return fits and kernels().attention is not None


def native_forward(q: Tensor, k: Tensor, v: Tensor, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`spans_plain`, natively; ``first`` and ``end`` are int32 [B, S]."""
    q, k, v, first, end = (x.contiguous() for x in (q, k, v, first, end))
    out, lse = torch.empty_like(q), torch.empty(q.shape[0], q.shape[2], q.shape[1])
    library = kernels().attention
    assert library is not None
    library.weft_attention_forward(*map(address, (q, k, v, first, end, out, lse)), *_sizes(q, k))
    return out, lse


def native_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, first: Tensor, end: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`spans_backward`, natively; dq, dk, dv in the dtype of q."""
    inputs = [x.contiguous() for x in (q, k, v, first, end, out, lse, grad)]
    dq, dk, dv = (torch.empty_like(x) for x in inputs[:3])
    library = kernels().attention
    assert library is not None
    library.weft_attention_backward(*map(address, (*inputs, dq, dk, dv)), *_sizes(q, k))
    return dq, dk, dv


def _sizes(q: Tensor, k: Tensor) -> list[Any]:
    B, S, H, D = q.shape
    numbers = (B, S, k.shape[1], H, k.shape[2], D)
    return [*(ctypes.c_int(n) for n in numbers), ctypes.c_float(D**-0.5)]
