"""Scores to tokens. Each row depends on its own sequence only, never on its neighbours.

The order: what is not allowed at all, repetition, frequency and presence penalties, bias; then the filters of
:mod:`weft.ops.draw`. V is the vocabulary size, M the rows of a step whose scores are wanted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from weft.core.errors import CheckpointError
from weft.engine.params import uniform
from weft.engine.scheduler import Work
from weft.engine.search import Search, likeliest
from weft.engine.sequence import Sequence, TokenLogprobs
from weft.ops.draw import Draw, draw_rows, greatest_rows

DAMAGED = "The model gives NaN or infinite scores: its weights are damaged or overflow."
_NOTHING_LEFT = "No token may follow: the model gives all that the grammar allows no probability at all."


def sample(scores_MV: Tensor, work: Rows[Work]) -> list[list[int]]:
    """The new tokens of each item of ``work`` whose newest token is in it, one at least.

    There are none of a search: it chooses among continuations of all its beams.

    ``scores`` are those of :meth:`weft.engine.runner.Runner.run`. A draft is accepted if it is what would
    have been drawn, with the same random number, had it not been there: so drafts change no token, and the
    tokens have exactly the distribution they have without. A sequence whose scores are NaN, or whose tokens
    cannot be chosen, has failed (:meth:`Sequence.fail`), and gets none.
    """
    best, drawn = greatest_rows(scores_MV)
    finite = list(map(math.isfinite, best))
    _draw_plain(scores_MV, work, drawn, finite)
    chosen: list[list[int]] = []
    row = 0
    for item in work:
        if not item.last:
            continue
        try:
            chosen.append(_chosen(scores_MV, drawn, finite, item, row))
        except Exception as failure:
            item.sequence.fail(failure)
            chosen.append([])
        row += item.scored
    return chosen


def _chosen(scores_MV: Tensor, drawn: list[int], finite: list[bool], item: Work, row: int) -> list[int]:
    """The new tokens of one item, whose rows begin with ``row``.

    CheckpointError when scores are NaN, or none of those that may follow has any probability.
    """
    sequence = item.sequence
    if sequence.search is not None:
        if not all(finite[row : row + item.scored]):
            raise CheckpointError(DAMAGED)
        _search(scores_MV[row : row + item.scored], sequence, sequence.search)
        return []
    new: list[int] = []
    for place in range(len(item.drafts) + 1):
        here = row + place
        if not finite[here]:
            raise CheckpointError(DAMAGED)
        new.append(_next(scores_MV, here, drawn[here], sequence, item.drafts[:place]))
        # Behind an end the grammar of an answer knows nothing.
        if place == len(item.drafts) or new[-1] != item.drafts[place] or new[-1] in sequence.ends:
            break
    return new


def _search(scores_KV: Tensor, sequence: Sequence, search: Search) -> None:
    """Choose the beams that go on, of the sums of logarithms of the model's own probabilities."""
    scores_KV = scores_KV.float()
    totals = scores_KV.logsumexp(-1).tolist()
    best, places = scores_KV.topk(min(search.candidates, scores_KV.shape[1]))
    rows = (
        [(token, score - total) for token, score in zip(tokens, scores, strict=True)]
        for tokens, scores, total in zip(places.tolist(), best.tolist(), totals, strict=True)
    )
    lines, first = sequence.lines, sequence.prompt_length
    sums = [beam.total for beam in sequence.beams] or [0.0]
    grown = likeliest(sums, rows, search.candidates)
    search.take(len(sequence.tokens) - first + 1, grown, lambda beam: lines[beam].tokens[first:])


def _draw_plain(scores_MV: Tensor, work: Rows[Work], drawn: list[int], finite: list[bool]) -> None:
    """Draw, into ``drawn``, the tokens of all ``finite`` rows whose scores are taken as they are."""
    rows: list[int] = []
    draws: list[Draw] = []
    row = 0
    for item in work:
        if not item.last:
            continue
        params = item.sequence.params
        if params.plain and not params.greedy:
            places = [place for place in range(item.scored) if finite[row + place]]
            rows += [row + place for place in places]
            draws += [_draw(item.sequence, place) for place in places]
        row += item.scored
    if rows:
        for row, token in zip(rows, draw_rows(scores_MV, rows, draws), strict=True):
            drawn[row] = token


def _draw(sequence: Sequence, drafts: int) -> Draw:
    params = sequence.params
    number = uniform(sequence.seed, len(sequence.tokens) + drafts)
    return Draw(params.temperature, params.top_k, params.top_p, params.min_p, number)


def _next(scores_MV: Tensor, row: int, token: int, sequence: Sequence, drafts: tuple[int, ...]) -> int:
    """The token after those of ``sequence`` and ``drafts``: ``token`` if nothing changes the scores."""
    params = sequence.params
    if not params.plain:
        changed_V = change(scores_MV[row], sequence, drafts)
        (best,), (token,) = greatest_rows(changed_V.unsqueeze(0))
        if best == -math.inf:
            raise CheckpointError(_NOTHING_LEFT)
        if not params.greedy:
            (token,) = draw_rows(changed_V.unsqueeze(0), [0], [_draw(sequence, len(drafts))])
    if params.logprobs is not None:
        # A step that was left half way may have noted it already.
        del sequence.logprobs[sequence.generated_length + len(drafts) :]
        sequence.logprobs += logprobs(scores_MV[row : row + 1], [token], params.logprobs)
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
    # What an answer to a source begins with is the token that ends it, and said by nobody.
    said = sequence.generated if sequence.source else sequence.tokens
    scores_V = penalise(scores_V, [*said, *drafts], params.repetition_penalty)
    if params.frequency_penalty or params.presence_penalty:
        counts = Counter(sequence.generated)
        counts.update(drafts)
        _add(
            scores_V,
            {
                token: -(params.frequency_penalty * count + params.presence_penalty)
                for token, count in counts.items()
            },
        )
    _add(scores_V, params.logit_bias)
    return scores_V


def logprobs(scores_MV: Tensor, tokens: Rows[int], count: int) -> list[TokenLogprobs]:
    """Logarithms of the model's own probabilities, of one token a row and of the ``count`` likeliest.

    A token beyond V cannot be drawn: its logarithm is minus infinity. CheckpointError when a score is NaN.
    """
    # Row by row, since PyTorch sums one long row alone in another order than several; read back once,
    # since a GPU stops for each number that is read.
    totals, values, likeliest, own = [], [], [], []
    for scores_V, token in zip(scores_MV.float(), tokens, strict=True):
        known = token < scores_V.shape[0]
        totals.append(scores_V.logsumexp(-1))
        best, places = scores_V.topk(min(count, scores_V.shape[0]))
        values.append(best)
        likeliest.append(places)
        own.append(scores_V[token] if known else torch.full_like(scores_V[0], -math.inf))
    read = (torch.stack(rows).tolist() for rows in (totals, own, values, likeliest))
    found: list[TokenLogprobs] = []
    for token, total, score, tops, places in zip(tokens, *read, strict=True):
        if not math.isfinite(total):
            raise CheckpointError(DAMAGED)
        top = tuple((place, value - total) for place, value in zip(places, tops, strict=True))
        found.append(TokenLogprobs(token, score - total, top))
    return found


def _add(scores_V: Tensor, changes: Mapping[int, float]) -> None:
    """Add to the scores of these tokens, in place."""
    if changes:
        # One by one a thousand of them, the words of a long answer, hold up everybody for 10 ms in each step.
        index = torch.tensor(list(changes), device=scores_V.device)
        scores_V[index] += torch.tensor(list(changes.values()), dtype=scores_V.dtype, device=scores_V.device)


def penalise(scores_V: Tensor, seen: Rows[int], penalty: float) -> Tensor:
    """Scores in which the scores of ``seen`` tokens are divided (positive) or multiplied by ``penalty``.

    Of tokens beyond V, which a prompt may hold and nothing draws, there is none.
    """
    if penalty == 1:
        return scores_V
    index = torch.tensor([token for token in seen if token < len(scores_V)], device=scores_V.device).long()
    old = scores_V[index]
    return scores_V.index_put((index,), torch.where(old > 0, old / penalty, old * penalty))
