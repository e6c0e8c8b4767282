"""Scores to tokens. Each row depends on its own sequence only, never on its neighbours.

The order of the filters: repetition penalty, temperature, top-k, top-p, min-p; each works on what the
one before kept, made to sum to 1 again. V is the vocabulary size, C the number of candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from weft.core.errors import CheckpointError
from weft.engine.params import SamplingParams, uniform
from weft.engine.sequence import Sequence

_NUCLEUS = 256


@torch.inference_mode()
def sample(scores_MV: Tensor, sequences: Rows[Sequence]) -> list[int]:
    """The next token of each sequence from its row of scores. CheckpointError when the scores are NaN."""
    best, tokens = scores_MV.max(-1)
    chosen: list[int] = tokens.tolist()
    if not all(map(math.isfinite, best.tolist())):
        raise CheckpointError("The model gives NaN or infinite scores: its weights are damaged or overflow.")
    for row, sequence in enumerate(sequences):
        params = sequence.params
        if params.greedy and params.repetition_penalty == 1:
            continue
        scores_V = penalise(scores_MV[row], sequence.tokens, params.repetition_penalty)
        if params.greedy:
            chosen[row] = int(scores_V.argmax())
        else:
            number = uniform(sequence.seed, len(sequence.tokens))
            chosen[row] = draw(*candidates(scores_V, params), number)
    return chosen


def penalise(scores_V: Tensor, seen: Rows[int], penalty: float) -> Tensor:
    """Scores in which the scores of ``seen`` tokens are divided (positive) or multiplied by ``penalty``."""
    if penalty == 1:
        return scores_V
    index = torch.tensor(seen, device=scores_V.device)
    old = scores_V[index]
    return scores_V.index_put((index,), torch.where(old > 0, old / penalty, old * penalty))


def candidates(scores_V: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Weights [C] of the tokens that pass the filters, and their ids [C] (None: all tokens, in order)."""
    weights = ((scores_V - scores_V.max()) / params.temperature).softmax(-1)
    ids: Tensor | None = None
    if 0 < params.top_k < weights.shape[0]:
        weights, ids = weights.topk(params.top_k)
        weights = weights / weights.sum()
    if params.top_p < 1:
        weights, order = _nucleus(weights, params.top_p)
        ids = order if ids is None else ids[order]
    if params.min_p > 0:
        kept = weights >= params.min_p * weights.max()
        ids = kept.nonzero().squeeze(-1) if ids is None else ids[kept]
        weights = weights[kept]
    return weights, ids


def draw(weights_C: Tensor, ids_C: Tensor | None, number: float) -> int:
    """The token at ``number`` (in [0, 1)) of the cumulative weights."""
    total = weights_C.double().cumsum(-1)
    target = min(number * float(total[-1]), math.nextafter(float(total[-1]), 0.0))
    place = int(torch.searchsorted(total, target, right=True))
    return place if ids_C is None else int(ids_C[place])


def _nucleus(weights: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of largest weights that sums to ``top_p``, and their places."""
    # Sorting a whole vocabulary costs more than a small model's step; the head nearly always suffices.
    size = weights.shape[0]
    for width in (min(_NUCLEUS, size), size):
        largest, places = weights.topk(width)
        before = largest.cumsum(-1) - largest
        if width == size or float(before[-1]) >= top_p:
            break
    kept = before < top_p
    return largest[kept], places[kept]
