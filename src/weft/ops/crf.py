"""A linear-chain conditional random field over packed rows (Lafferty et al. 2001; Lample et al. 2016).

Dimensions: B batch rows, T positions, C classes. A document scores: ``first`` of its first class, the scores
of all its tokens, ``transitions[i, j]`` of each class j after class i, and ``last`` of its last class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.loss import IGNORED


def likelihood(
    scores_BTC: Tensor, targets_BT: Tensor, start_BT: Tensor, table: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """fp32 scalar: the summed negative log-likelihood of the documents' classes.

    ``start`` int [B, T]: where the document of each position begins in its row. Documents whose targets are
    IGNORED do not count; in the others every token has a class. ``table``: transitions [C, C], first [C] and
    last [C].
    """
    transitions, first, last = table
    T = targets_BT.shape[1]
    index = torch.arange(T, device=targets_BT.device)
    kept = targets_BT != IGNORED
    begins = start_BT == index
    ends = torch.ones_like(begins)
    ends[:, :-1] = begins[:, 1:]
    classes = targets_BT.clamp(min=0)
    own = scores_BTC.gather(2, classes.unsqueeze(-1)).squeeze(-1)
    own = own + first[classes] * begins + last[classes] * ends
    step = transitions[classes[:, :-1], classes[:, 1:]] * ~begins[:, 1:]
    gold = (own * kept).sum() + (step * kept[:, 1:]).sum()
    total = scores_BTC.new_zeros(())
    alpha = scores_BTC[:, 0] + first
    for place in range(T):
        if place:
            ahead = (alpha.unsqueeze(2) + transitions).logsumexp(1)
            alpha = torch.where(begins[:, place, None], first, ahead) + scores_BTC[:, place]
        closed = (ends & kept)[:, place]
        total = total + ((alpha + last).logsumexp(1) * closed).sum()
    return total - gold


def best(scores_BTC: Tensor, start_BT: Tensor, table: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """int64 [B, T]: the best classes of every document, :func:`viterbi` of all rows at once.

    ``start`` and ``table`` as in :func:`likelihood`, -infinity forbids.
    """
    transitions, first, last = table
    T = scores_BTC.shape[1]
    begins = start_BT == torch.arange(T, device=scores_BTC.device)
    highest, came = [scores_BTC[:, 0] + first], []
    for place in range(1, T):
        ahead, before = (highest[-1].unsqueeze(2) + transitions).max(1)
        came.append(before)
        highest.append(torch.where(begins[:, place, None], first, ahead) + scores_BTC[:, place])
    own = (torch.stack(highest, 1) + last).argmax(-1)
    found = [own[:, -1]]
    for place in range(T - 2, -1, -1):
        gone = came[place].gather(1, found[-1].unsqueeze(1)).squeeze(1)
        found.append(torch.where(begins[:, place + 1], own[:, place], gone))
    return torch.stack(found[::-1], 1)


def viterbi(scores_TC: Tensor, table: tuple[Tensor, Tensor, Tensor]) -> list[int]:
    """The best classes of one document [T]; ``table`` as in :func:`likelihood`, -infinity forbids."""
    transitions, first, last = table
    best = scores_TC[0] + first
    back: list[Tensor] = []
    for scores in scores_TC[1:]:
        ahead, came = (best.unsqueeze(1) + transitions).max(0)
        back.append(came)
        best = ahead + scores
    found = [int((best + last).argmax())]
    for came in reversed(back):
        found.append(int(came[found[-1]]))
    return found[::-1]
