"""Ring attention (arXiv:2310.01889): keys and values travel round the cp line, queries stay.

At every turn a rank attends with all its queries to the keys at hand while those of the next turn are on
their way; parts are merged by their log-sum-exp. In the backward pass keys and values go round once more, and
their gradients follow one turn behind, summed in fp32, until they are home. What no query of a rank can see
(later positions, other documents, beyond the window) is not computed.

Dimensions: B rows, P positions of a rank, H query heads, G key-value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from weft.ops.attention import packed_spans
from weft.ops.spans import Spans, merge, spans_backward, spans_forward
from weft.parallel.cut import Cut


class RingRows:
    """The attention context of one rank of a ring."""

    def __init__(self, cut: Cut):
        first, end = (x[:, cut.mine] for x in packed_spans(cut.document_start_BT, cut.window))
        self.group = cut.group
        # A rank's keys lie in rising order, so a range of positions is a range of them.
        self.spans = [
            Spans.of(torch.searchsorted(place, first), torch.searchsorted(place, end), cut.device)
            for place in (place.int() for place in cut.places)
        ]
        self._positions = cut.positions()

    def positions(self, tokens_BP: Tensor) -> Tensor:
        """int64 [B, P]: 0 at the first token of each document, whichever rank holds it."""
        return self._positions

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, layer: int, q_BPHD: Tensor, k_BPGD: Tensor, v_BPGD: Tensor) -> Tensor:
        """[B, P, H, D]; the same for every layer. All ranks of the line must call it together."""
        out: Tensor = _Ring.apply(q_BPHD, k_BPGD, v_BPGD, self)  # type: ignore[no-untyped-call]
        return out


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ring: RingRows) -> Tensor:
        rank, size = ring.group.rank(), ring.group.size()
        own = keys = torch.stack((k, v))
        out, lse = torch.empty(0), torch.empty(0)
        for turn in range(size):
            coming = _Passing(keys, ring.group) if turn < size - 1 else None
            spans = ring.spans[(rank - turn) % size]
            if turn == 0:
                out, lse = spans_forward(q, keys[0], keys[1], spans)
                out = out.to(_wide(q.dtype))
            elif not spans.blind:
                merge(out, lse, *spans_forward(q, keys[0], keys[1], spans))
            if coming is not None:
                keys = coming.wait()
        out = out.to(q.dtype)
        ctx.save_for_backward(q, own, out, lse)
        ctx.ring = ring
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, keys, out, lse = ctx.saved_tensors
        ring: RingRows = ctx.ring
        rank, size = ring.group.rank(), ring.group.size()
        dq = torch.zeros_like(q, dtype=_wide(q.dtype))
        home = torch.empty(0)
        following: _Passing | None = None
        for turn in range(size):
            coming = _Passing(keys, ring.group) if turn < size - 1 else None
            share = torch.zeros_like(keys, dtype=dq.dtype)
            spans = ring.spans[(rank - turn) % size]
            if not spans.blind:
                dq_part, share[0], share[1] = spans_backward(grads[0], q, keys[0], keys[1], out, lse, spans)
                dq += dq_part
            if turn == 0:
                home = share
            else:
                # What earlier ranks of the ring found for the same keys arrives while this rank computes.
                share = share if following is None else share + following.wait()
                following = _Passing(share, ring.group, tag=1)
            if coming is not None:
                keys = coming.wait()
        if following is not None:
            home = home + following.wait()
        dk, dv = home.to(keys.dtype)
        return dq.to(q.dtype), dk, dv, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What parts are summed in."""
    return torch.promote_types(dtype, torch.float32)


class _Passing:
    """A tensor on its way to the next rank of the ring, while the previous rank's comes in."""

    def __init__(self, tensor: Tensor, group: dist.ProcessGroup, tag: int = 0):
        rank, size = group.rank(), group.size()
        self.sent, self.received = tensor, torch.empty_like(tensor)
        # With two ranks both ends are the same peer: keys and gradients are told apart by their tag, and
        # where a backend has no tags, by their order, which is the same on every rank.
        to = dist.P2POp(dist.isend, tensor, group=group, tag=tag, group_peer=(rank + 1) % size)
        from_ = dist.P2POp(dist.irecv, self.received, group=group, tag=tag, group_peer=(rank - 1) % size)
        self.works = dist.batch_isend_irecv([to, from_])

    def wait(self) -> Tensor:
        """The previous rank's tensor, once both transfers are done."""
        for work in self.works:
            work.wait()
        return self.received
