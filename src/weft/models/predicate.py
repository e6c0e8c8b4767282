"""What a network that labels tokens is told of the predicate it is asked about.

Dimensions: B batch rows, T positions, I width of the input, E model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.models.baseline_config import SIDES
from weft.models.layers import Linear
from weft.ops.both_ways import BothWays


@dataclass(frozen=True)
class Place:
    """Where the predicate of each position's document is.

    ``marked`` bool [B, T]: whether the document has one; ``first`` and ``last`` int64 [B, T]: positions of
    its first and last token in the row; ``side`` int64 [B, T]: 0 before it, 1 in it or at a marker, 2 after.
    """

    marked: Tensor
    first: Tensor
    last: Tensor
    side: Tensor

    def state(self, x_BTI: Tensor) -> Tensor:
        """[B, T, I]: the mean of what the first and the last token of the predicate have; else zeros."""
        ends = [_at(x_BTI, place) for place in (self.first, self.last)]
        return (ends[0] + ends[1]) * 0.5 * self.marked.unsqueeze(-1).to(x_BTI.dtype)


class Predicate(nn.Module):
    """The predicate's vector beside every token, below and above the layers.

    Below, each token is told the words of the predicate (Zhou, Xu 2015, "End-to-end learning of semantic role
    labeling using recurrent neural networks") and which side of it it is on; above, a token's state meets
    that of the predicate (Marcheggiani et al., arXiv:1701.02593). Both begin as nothing added, so layers that
    were trained without a predicate go on as they are.
    """

    def __init__(self, read: int, size: int):
        super().__init__()
        self.side = nn.Embedding(SIDES, read)
        self.word = Linear(read, read, bias=False)
        self.meet = Linear(2 * size, size)
        self.joined = Linear(size, size)

    @torch.no_grad()
    def silence(self) -> None:
        """Begin as nothing added."""
        for parameter in (self.side.weight, self.word.weight, self.joined.weight, self.joined.bias):
            parameter.zero_()

    def below(self, x_BTI: Tensor, place: Place) -> Tensor:
        """[B, T, I]: what the layers read."""
        told: Tensor = self.word(place.state(x_BTI)) + self.side(place.side).to(x_BTI.dtype)
        return x_BTI + told * place.marked.unsqueeze(-1).to(x_BTI.dtype)

    def above(self, hidden_BTE: Tensor, place: Place) -> Tensor:
        """[B, T, E]: what the classifier reads."""
        both = torch.cat([hidden_BTE, place.state(hidden_BTE)], dim=-1)
        told: Tensor = self.joined(F.gelu(self.meet(both)))
        return hidden_BTE + told * place.marked.unsqueeze(-1).to(hidden_BTE.dtype)


def find(tokens_BT: Tensor, context: BothWays, markers: tuple[int, int]) -> Place:
    """Where each document of packed rows has what stands between ``markers``; the first of several."""
    index = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    opened = _first(tokens_BT == markers[0], context)
    # The second marker may be a token that every document begins with.
    closed = _first((tokens_BT == markers[1]) & (opened >= 0) & (index > opened), context)
    marked = closed > opened + 1
    side = (index >= opened).long() + (index > closed).long()
    zero = torch.zeros_like(opened)
    return Place(
        marked,
        torch.where(marked, opened + 1, zero),
        torch.where(marked, closed - 1, zero),
        torch.where(marked, side, zero),
    )


def _first(here_BT: Tensor, context: BothWays) -> Tensor:
    """int64 [B, T]: the first position of each document where ``here`` is true; -1 without any."""
    width = here_BT.shape[1]
    index = torch.arange(width, device=here_BT.device).expand_as(here_BT)
    places = torch.where(here_BT, index, width)
    start = context.start.long()
    nearest = torch.full_like(places, width).scatter_reduce(1, start, places, "amin")
    found = nearest.gather(1, start)
    return torch.where(found < width, found, -1)


def _at(x_BTI: Tensor, place_BT: Tensor) -> Tensor:
    return x_BTI.gather(1, place_BT.unsqueeze(-1).expand_as(x_BTI))
