"""A bidirectional LSTM over packed rows on a CPU: documents of like length side by side, padded at the end.

PyTorch's LSTM over a ``PackedSequence`` takes a step of all documents after the other, each a small product
with its own backward pass; over a padded batch oneDNN takes all steps in one call, twice as fast. A padded
batch alone would be wrong for the direction that begins at the end, and mostly padding for ragged lengths.
So each direction runs by itself over documents that all begin at column 0, and documents are grouped by
length. Dimensions: B batch rows, T positions, E input width, S state width, N documents, L longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.ops.both_ways import BothWays

_LOOSEST = 0.7
"""A group ends where documents are shorter than this share of its longest one."""


@dataclass(frozen=True)
class Group:
    """Documents of like length: flat positions [N, L] of their tokens (row * T + column) in both orders.

    Beyond the end of a document stands its last token in the order, whose states nobody reads; ``inside``
    int64 are the places [tokens] of the N * L that are tokens.
    """

    forwards: Tensor
    backwards: Tensor
    inside: Tensor


def groups(context: BothWays) -> list[Group]:
    """The documents of all rows, the longest first."""
    B, T = context.start.shape
    begins = context.start == torch.arange(T)
    row = torch.arange(B).unsqueeze(1) * T
    first = (row + context.start.long())[begins]
    length = (context.end - context.start).long()[begins]
    length, order = length.sort(descending=True, stable=True)
    first = first[order]
    found, taken, lengths = [], 0, length.tolist()
    while taken < len(lengths):
        longest, end = lengths[taken], taken
        while end < len(lengths) and lengths[end] >= _LOOSEST * longest:
            end += 1
        found.append(_group(first[taken:end], length[taken:end], longest))
        taken = end
    return found


def _group(first: Tensor, length: Tensor, longest: int) -> Group:
    column = torch.arange(longest)
    within = torch.minimum(column, length.unsqueeze(1) - 1)
    forwards = first.unsqueeze(1) + within
    backwards = first.unsqueeze(1) + length.unsqueeze(1) - 1 - within
    return Group(forwards, backwards, (column < length.unsqueeze(1)).flatten().nonzero().squeeze(1))


def layer(
    x_BTE: Tensor, documents: Sequence[Group], forward: Sequence[Tensor], backward: Sequence[Tensor]
) -> Tensor:
    """fp32 [B, T, E] -> [B, T, 2 S]: the states of both directions.

    ``forward`` and ``backward``: the weights of a direction as PyTorch's LSTM has them (input, state, bias of
    the input, bias of the state).
    """
    indices = [group.forwards for group in documents] + [group.backwards for group in documents]
    # All at once, as each of several would have a gradient of its own over all rows.
    flat = x_BTE.flatten(0, 1).index_select(0, torch.cat([index.flatten() for index in indices]))
    parted = torch.split(flat, [index.numel() for index in indices])
    places, states = [], []
    for number, (index, part) in enumerate(zip(indices, parted, strict=True)):
        ahead = number < len(documents)
        inside = documents[number % len(documents)].inside
        found = _one_way(part.view(*index.shape, -1), forward if ahead else backward)
        states.append(found.flatten(0, 1).index_select(0, inside))
        places.append(index.flatten()[inside])
    half = len(documents)
    joined = [torch.cat(states[:half]), torch.cat(states[half:])]
    at = [torch.cat(places[:half]), torch.cat(places[half:])]
    both = [torch.empty_like(part).index_copy(0, index, part) for part, index in zip(joined, at, strict=True)]
    return torch.cat(both, dim=-1).view(*x_BTE.shape[:2], -1)


def _one_way(x_NLE: Tensor, weights: Sequence[Tensor]) -> Tensor:
    state = x_NLE.new_zeros(1, len(x_NLE), weights[1].shape[1])
    found: Tensor = torch.lstm(x_NLE, (state, state), list(weights), True, 1, 0.0, True, False, True)[0]
    return found
