"""Embedding, scores and loss over a vocabulary that is cut over ranks.

Dimensions: B batch rows, S positions of a row on this rank, T positions of a row, K ranks, N = B * S,
E model width, V tokens of the vocabulary on this rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.ops.linear import linear
from weft.ops.local import local
from weft.ops.loss import IGNORED, cross_entropy_plain, times
from weft.parallel.sequence import (
    Line,
    all_gather,
    all_reduce,
    gather_last,
    gather_sequence,
    reduce_scatter,
    scatter_sequence,
)

CHUNK = 1024
"""Positions of all ranks together whose scores exist at one time."""


class VocabularyEmbedding(nn.Module):
    """An embedding of which each rank holds some tokens; its output is cut along the sequence."""

    def __init__(self, weight: Tensor, line: Line):
        super().__init__()
        assert isinstance(weight, nn.Parameter)
        self.weight, self.line = weight, line

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """int64 [B, T] -> [B, S, E]."""
        weight = local(self.weight)
        index, absent = _places(tokens_BT, weight.shape[0], self.line)
        found_BTE = F.embedding(index, weight).masked_fill(absent.unsqueeze(-1), 0.0)
        return scatter_sequence(found_BTE, self.line)


class VocabularyOutput(nn.Module):
    """An output matrix of which each rank holds some tokens; its input is cut along the sequence."""

    def __init__(self, weight: Tensor, line: Line):
        super().__init__()
        assert isinstance(weight, nn.Parameter)
        self.weight, self.line = weight, line

    def forward(self, hidden_BSE: Tensor) -> Tensor:
        """[B, S, E] -> all scores of all positions, [B, T, K * V], the same on every rank."""
        hidden_BTE = gather_sequence(hidden_BSE, self.line)
        return gather_last(linear(hidden_BTE, local(self.weight), None), self.line)

    def loss(self, hidden_BSE: Tensor, targets_BT: Tensor, scale: float) -> Tensor:
        """As :meth:`weft.models.layers.Output.loss`, over all positions; the same on every rank."""
        return vocabulary_cross_entropy(hidden_BSE, local(self.weight), targets_BT, scale, self.line)


def vocabulary_cross_entropy_plain(
    hidden_BSE: Tensor, weight_VE: Tensor, targets_BT: Tensor, scale: float, line: Line
) -> Tensor:
    """Reference, without gradients: positions and vocabulary gathered, then the loss of one process."""
    hidden_BTE = gather_sequence(hidden_BSE, line)
    weight = all_gather(weight_VE, line.name, line.size)
    return cross_entropy_plain(hidden_BTE.flatten(0, 1), weight, targets_BT.flatten()).sum() * scale


def vocabulary_cross_entropy(
    hidden_BSE: Tensor, weight_VE: Tensor, targets_BT: Tensor, scale: float, line: Line, chunk: int = CHUNK
) -> Tensor:
    """``scale`` times the summed cross entropy of all positions, fp32 scalar, the same on every rank.

    Scores of ``chunk`` positions exist at one time, and of them this rank's tokens only; ranks exchange
    the hidden states and three numbers a position: the maximum, the sum of exponentials and the target's
    score (arXiv:1909.08053, section 3). As in :func:`weft.ops.loss.summed_cross_entropy` the gradient
    is made in the forward pass.
    """
    B, S, _ = hidden_BSE.shape
    # The order that gathered positions come in: rank by rank.
    targets_KN = targets_BT.view(B, line.size, S).transpose(0, 1).reshape(line.size, B * S)
    out: Tensor = _Chunked.apply(  # type: ignore[no-untyped-call]
        hidden_BSE.flatten(0, 1), weight_VE, targets_KN, scale, line, max(1, chunk // line.size)
    )
    return out


def _places(tokens: Tensor, held: int, line: Line) -> tuple[Tensor, Tensor]:
    """Rows of this rank's part of the vocabulary, and which tokens are not in it (their row is 0).

    A token that no rank has gets a row beyond the last on all of them: what looks it up then fails on each,
    as in one process, instead of on none.
    """
    index = tokens - line.rank * held
    absent = (index < 0) | (index >= held)
    unknown = (tokens >= held * line.size) | ((tokens < 0) & (tokens != IGNORED))
    return index.masked_fill(absent, 0).masked_fill(unknown, held), absent


def losses_and_gradient(logits: Tensor, targets: Tensor, scale: float, line: Line, want: bool) -> Tensor:
    """fp32 [n] losses from this rank's scores [n, V]; with ``want`` those become their scaled gradient."""
    kept = targets != IGNORED
    index, absent = _places(targets, logits.shape[1], line)
    index, here = index.unsqueeze(-1), (~absent).float()
    wide = logits.float()
    shifted = wide - all_reduce(wide.amax(-1), "max", line.name).unsqueeze(-1)
    chosen = shifted.gather(-1, index).squeeze(-1) * here
    exps = shifted.exp_()
    total, target = all_reduce(torch.stack((exps.sum(-1), chosen)), "sum", line.name)
    if want:
        gradient = exps.div_(total.unsqueeze(-1)).scatter_add_(-1, index, -here.unsqueeze(-1))
        logits.copy_(gradient.mul_((scale * kept).unsqueeze(-1)))
    losses: Tensor = (total.log() - target) * kept
    return losses


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, line: Line, chunk: int
    ) -> Tensor:
        want = any(ctx.needs_input_grad)
        work = weight.to(hidden.dtype)
        dhidden = torch.empty_like(hidden) if want else hidden
        dweight = torch.zeros_like(weight, dtype=torch.float32) if want else weight
        total = torch.zeros((), device=hidden.device, dtype=torch.float64)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            part = all_gather(hidden[rows], line.name, line.size)
            logits = F.linear(part, work)
            losses = losses_and_gradient(logits, targets[:, rows].flatten(), scale, line, want)
            total += losses.sum(dtype=torch.float64)
            if want:
                dhidden[rows] = reduce_scatter(logits @ work, line.name, line.size)
                dweight += logits.t() @ part
        if want:
            ctx.save_for_backward(dhidden, dweight.to(weight.dtype))
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        dhidden, dweight = times(ctx.saved_tensors, grads[0])
        return dhidden, dweight, None, None, None, None
