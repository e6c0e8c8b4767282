"""What stands on top of an encoder: the stock heads of ModernBERT.

Dimensions: B batch rows, T positions, N documents, E model width, C classes, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.models.layers import Linear
from weft.ops.crf import likelihood
from weft.ops.loss import IGNORED

CHUNK = 1024
"""Positions whose scores over the vocabulary exist at once."""


class Norm(nn.Module):
    """Layer normalisation (arXiv:1607.06450) over the last dimension, computed in fp32."""

    def __init__(self, size: int, eps: float, *, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as ``x``."""
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)


class PredictionHead(nn.Module):
    """norm(gelu(dense(x))): what stands before every output of ModernBERT."""

    def __init__(self, size: int, eps: float, *, dense_bias: bool, norm_bias: bool):
        super().__init__()
        self.dense = Linear(size, size, bias=dense_bias)
        self.norm = Norm(size, eps, bias=norm_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]."""
        normed: Tensor = self.norm(F.gelu(self.dense(x)))
        return normed


class MaskedOutput(Linear):
    """Scores over the vocabulary, for the hidden tokens only."""

    def loss(self, hidden_NE: Tensor, targets_N: Tensor, scale: float) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy of int64 targets [N] (IGNORED: none)."""
        kept = targets_N != IGNORED
        hidden, targets = hidden_NE[kept], targets_N[kept]
        # Of rows without any target the loss is 0, and still one that a backward pass can begin at.
        total = hidden.new_zeros((), dtype=torch.float32)
        if not len(targets):
            return hidden.sum(dtype=torch.float32)
        for first in range(0, len(targets), CHUNK):
            scores = self(hidden[first : first + CHUNK]).float()
            total = total + F.cross_entropy(scores, targets[first : first + CHUNK], reduction="sum")
        return total * scale


class CRF(nn.Module):
    """What follows what among the classes of tokens, learnt (:mod:`weft.ops.crf`)."""

    def __init__(self, classes: int):
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(classes, classes))
        self.first = nn.Parameter(torch.zeros(classes))
        self.last = nn.Parameter(torch.zeros(classes))

    @property
    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Transitions [C, C], first [C] and last [C]."""
        return self.transitions, self.first, self.last

    def loss(self, scores_BTC: Tensor, targets_BT: Tensor, start_BT: Tensor) -> Tensor:
        """fp32 scalar, see :func:`weft.ops.crf.likelihood`."""
        return likelihood(scores_BTC, targets_BT, start_BT, self.table)


def pool(hidden_BTE: Tensor, start_BT: Tensor, end_BT: Tensor, first_N: Tensor, how: str) -> Tensor:
    """[N, E]: one vector a document; ``first_N`` int64 are flat positions (row * T + column) of first tokens.

    ``how`` is "cls", the hidden state of the first token, "mean", that of all, or "max", the largest of each
    dimension. ``start`` and ``end`` as in :class:`weft.ops.both_ways.BothWays`.
    """
    flat = hidden_BTE.flatten(0, 1)
    if how == "cls":
        return flat[first_N]
    lengths = (end_BT - start_BT).flatten()[first_N].long()
    places = torch.repeat_interleave(first_N - (lengths.cumsum(0) - lengths), lengths)
    places = places + torch.arange(len(places), device=places.device)
    owner = torch.repeat_interleave(torch.arange(len(first_N), device=places.device), lengths)
    if how == "max":
        most = flat.new_full((len(first_N), flat.shape[-1]), float("-inf"))
        values = flat[places]
        return most.scatter_reduce(0, owner.unsqueeze(-1).expand_as(values), values, "amax")
    sums = flat.new_zeros(len(first_N), flat.shape[-1], dtype=torch.float32)
    sums = sums.index_add(0, owner, flat[places].float())
    return (sums / lengths.unsqueeze(-1)).to(hidden_BTE.dtype)
