"""Questions and texts of packed rows: where they lie, and how much of a text's question each token repeats.

A document is a question, a separator and a text (:mod:`weft.data.forms.span`); what starts a prompt counts
with the question. Dimensions: B batch rows, T positions, N documents, C tokens of the longest text, Q tokens
of the longest question, G lengths of n-grams, E width of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.both_ways import BothWays

_TOGETHER = 8
"""Documents of a group; those of like length stand together, so that little of a group is padding."""


@dataclass(frozen=True)
class Asked:
    """Documents side by side: flat positions (row * T + column), int64, and which of them are tokens, bool.

    ``first_N`` of the first token, ``text_NC`` and ``question_NQ`` of the others. Beyond the end of a text or
    a question stands its first token.
    """

    first_N: Tensor
    text_NC: Tensor
    in_text_NC: Tensor
    question_NQ: Tensor
    in_question_NQ: Tensor


def asked(tokens_BT: Tensor, context: BothWays, separator: int) -> list[Asked]:
    """The documents that have a question and a text, in groups; the longest texts come first.

    The separator of a document is the first of its kind after its first token.
    """
    first, at, end = _bounds(tokens_BT, context, separator)
    kept = at + 1 < end
    first, at, end = first[kept], at[kept], end[kept]
    order = torch.argsort(at - end, stable=True)
    return [_group(first[some], at[some], end[some]) for some in torch.split(order, _TOGETHER) if len(some)]


def parts(tokens_BT: Tensor, context: BothWays, separator: int) -> BothWays:
    """What positions see when a question, its separator and its text are documents of their own."""
    T = tokens_BT.shape[1]
    _, at, end = _bounds(tokens_BT, context, separator)
    start = context.start.flatten().clone()
    for begin in (at, at[at + 1 < end] + 1):
        start[begin] = (begin % T).int()
    return BothWays(start.view_as(tokens_BT).cummax(1).values)


def same_tokens(tokens_BT: Tensor, group: Asked) -> Tensor:
    """bool [N, C, Q]: whether a token of the text is that of the question."""
    flat = tokens_BT.flatten()
    equal = flat[group.text_NC].unsqueeze(2) == flat[group.question_NQ].unsqueeze(1)
    return equal & group.in_text_NC.unsqueeze(2) & group.in_question_NQ.unsqueeze(1)


def repeated(same_NCQ: Tensor, longest: int) -> Tensor:
    """bool [N, C, G]: whether a token of the text lies in an n-gram of the question, for n from 1 to
    ``longest`` (the exact match of arXiv:1704.00051, and longer ones)."""
    _, C, Q = same_NCQ.shape
    wide = F.pad(same_NCQ, (0, longest - 1, 0, longest - 1))
    found, run = [], same_NCQ
    for n in range(1, longest + 1):
        run = run & wide[:, n - 1 : n - 1 + C, n - 1 : n - 1 + Q]
        found.append(F.pad(run.any(2), (n - 1, 0)).unfold(1, n, 1).any(2))
    return torch.stack(found, dim=2)


def near(same_NCQ: Tensor, reach: int) -> Tensor:
    """bool [N, C, Q]: whether a token of the question stands within ``reach`` of a token of the text."""
    C = same_NCQ.shape[1]
    before = F.pad(same_NCQ.int().cumsum(1), (0, 0, 1, 0))
    column = torch.arange(C, device=same_NCQ.device)
    stop = (column + reach + 1).clamp(max=C)
    return before[:, stop] > before[:, (column - reach).clamp(min=0)]


def taken(x_BTE: Tensor, places: Sequence[Tensor]) -> list[Tensor]:
    """[N, C, E] for each of ``places`` [N, C]: what stands at these flat positions."""
    if not places:
        return []
    # All at once, as each of several would have a gradient of its own over all rows.
    flat = x_BTE.flatten(0, 1).index_select(0, torch.cat([one.flatten() for one in places]))
    parted = torch.split(flat, [one.numel() for one in places])
    return [part.view(*one.shape, -1) for part, one in zip(parted, places, strict=True)]


def put(like_BTE: Tensor, documents: Sequence[Asked], values: Sequence[Tensor]) -> Tensor:
    """[B, T, W]: values [N, C, W] of the texts where these stand in the rows, zeros elsewhere."""
    inside = [group.in_text_NC.flatten().nonzero().squeeze(1) for group in documents]
    flat = [one.flatten(0, 1).index_select(0, kept) for one, kept in zip(values, inside, strict=True)]
    places = [group.text_NC.flatten()[kept] for group, kept in zip(documents, inside, strict=True)]
    B, T, _ = like_BTE.shape
    rows = like_BTE.new_zeros(B * T, values[0].shape[-1])
    return rows.index_copy(0, torch.cat(places), torch.cat(flat)).view(B, T, -1)


def _bounds(tokens_BT: Tensor, context: BothWays, separator: int) -> tuple[Tensor, Tensor, Tensor]:
    """int64 [N] each: flat positions of first tokens, of separators, and behind the ends of documents."""
    T = tokens_BT.shape[1]
    at = ((tokens_BT == separator) & (context.positions() > 0)).flatten().nonzero().squeeze(1)
    row = at // T * T
    first = row + context.start.flatten()[at].long()
    new = torch.ones_like(first, dtype=torch.bool)
    new[1:] = first[1:] != first[:-1]
    return first[new], at[new], (row + context.end.flatten()[at].long())[new]


def _group(first: Tensor, at: Tensor, end: Tensor) -> Asked:
    question, in_question = _stretch(first, at)
    text, in_text = _stretch(at + 1, end)
    return Asked(first, text, in_text, question, in_question)


def _stretch(begin: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    length = (stop - begin).unsqueeze(1)
    column = torch.arange(int(length.max()), device=begin.device)
    inside = column < length
    return begin.unsqueeze(1) + torch.where(inside, column, 0), inside
