"""Scores to tokens. Each row depends on its own sequence only, never on its neighbours.

The order: what is not allowed at all, repetition, frequency and presence penalties, bias; then temperature,
top-k, top-p, min-p, each of which works on what the one before kept, made to sum to 1 again. V is the
vocabulary size, C the number of candidates, M the rows of a step whose scores are wanted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from weft.core.errors import CheckpointError
from weft.engine.params import SamplingParams, uniform
from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence, TokenLogprobs

_NUCLEUS = 256


@torch.inference_mode()
def sample(scores_MV: Tensor, work: Rows[Work]) -> list[list[int]]:
    """The new tokens of each item of ``work`` whose newest token is in it, one at least.

    ``scores`` are those of :meth:`weft.engine.runner.Runner.run`. A draft is accepted if it is what would
    have been drawn, with the same random number, had it not been there: so drafts change no token, and the
    tokens have exactly the distribution they have without. Raises CheckpointError when the scores are NaN.
    """
    best, likeliest = scores_MV.max(-1)
    if not all(map(math.isfinite, best.tolist())):
        raise CheckpointError("The model gives NaN or infinite scores: its weights are damaged or overflow.")
    greedy: list[int] = likeliest.tolist()
    chosen: list[list[int]] = []
    row = 0
    for item in work:
        if not item.last:
            continue
        new: list[int] = []
        for place in range(len(item.drafts) + 1):
            here = row + place
            new.append(_next(scores_MV[here], greedy[here], item.sequence, item.drafts[:place]))
            # Behind an end the grammar of an answer knows nothing.
            if place == len(item.drafts) or new[-1] != item.drafts[place] or new[-1] in item.sequence.ends:
                break
        chosen.append(new)
        row += len(item.drafts) + 1
    return chosen


def _next(scores_V: Tensor, best: int, sequence: Sequence, drafts: tuple[int, ...]) -> int:
    """The token after those of ``sequence`` and ``drafts``; ``best`` has the greatest of the scores."""
    params = sequence.params
    if params.greedy and params.plain:
        token = best
    else:
        changed_V = scores_V if params.plain else change(scores_V, sequence, drafts)
        if params.greedy:
            token = int(changed_V.argmax())
        else:
            number = uniform(sequence.seed, len(sequence.tokens) + len(drafts))
            token = draw(*candidates(changed_V, params), number)
    if params.logprobs is not None:
        sequence.logprobs.append(logprobs(scores_V, token, params.logprobs))
    return token


def change(scores_V: Tensor, sequence: Sequence, drafts: tuple[int, ...] = ()) -> Tensor:
    """The scores after grammar, ``min_tokens``, penalties and bias of ``sequence`` followed by ``drafts``."""
    params = sequence.params
    scores_V = scores_V.clone()
    if sequence.grammar is not None:
        bits = np.frombuffer(sequence.grammar.mask(drafts), np.uint8)
        allowed = np.unpackbits(bits, count=scores_V.shape[0], bitorder="little").view(np.bool_)
        scores_V.masked_fill_(torch.from_numpy(~allowed).to(scores_V.device), -math.inf)
    if sequence.generated_length + len(drafts) < params.min_tokens:
        held_V = scores_V.clone()
        held_V[[token for token in sequence.ends if token < scores_V.shape[0]]] = -math.inf
        # Where a grammar leaves nothing but the end, the answer ends.
        scores_V = held_V if float(held_V.max()) > -math.inf else scores_V
    scores_V = penalise(scores_V, [*sequence.tokens, *drafts], params.repetition_penalty)
    if params.frequency_penalty or params.presence_penalty:
        counts = Counter(sequence.generated)
        counts.update(drafts)
        for token, count in counts.items():
            scores_V[token] -= params.frequency_penalty * count + params.presence_penalty
    for token, bias in params.logit_bias.items():
        scores_V[token] += bias
    return scores_V


def logprobs(scores_V: Tensor, token: int, count: int) -> TokenLogprobs:
    """Logarithms of the model's own probabilities: of ``token``, and of the ``count`` likeliest."""
    scores_V = scores_V.float()
    total = float(scores_V.logsumexp(-1))
    values, tokens = scores_V.topk(min(count, scores_V.shape[0]))
    top = tuple((int(t), float(v) - total) for t, v in zip(tokens, values, strict=True))
    return TokenLogprobs(token, float(scores_V[token]) - total, top)


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
