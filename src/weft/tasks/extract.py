"""An answer out of a text, or that it is not there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.data.forms.offsets import Placed
from weft.data.forms.span import ask
from weft.tasks.results import Span
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]

FOUND, MISSING = "answer", "not found"
"""Labels of a span: an answer, or an empty span that says that the text has none."""

MOST_TOKENS = 64
"""Of an answer."""


def encode(tokenizer: Tokenizer, asked: Sequence[tuple[str, str]], window: int) -> list[list[Placed]]:
    """The windows of each (question, context)."""
    return ask(tokenizer, asked, window)


def decode(context: str, windows: Sequence[Placed], scores: Sequence[Floats], least: float = 0.0) -> Span:
    """The best span over all windows; «not found» where all say so, or its score is below ``least``.

    ``scores`` float64 [T, 2] of each window: of beginning and of ending at each token; the first token
    stands for «not here». The score of a span is its probability among all spans of its window.
    """
    best: Span | None = None
    empty = 1.0
    for one, scores_T2 in zip(windows, scores, strict=True):
        inside = [0, *(n for n, (start, end) in enumerate(one.offsets) if end > start)]
        logs = scores_T2[inside] - _log_sum(scores_T2[inside])
        empty = min(empty, float(np.exp(logs[0].sum())))
        found = _best(context, one, inside, logs)
        if found is not None and (best is None or found.score > best.score):
            best = found
    if best is None or best.score < least or empty > best.score:
        return Span("", 0, 0, MISSING, empty)
    return best


def _best(context: str, one: Placed, inside: list[int], logs: Floats) -> Span | None:
    begins, ends = logs[1:, 0], logs[1:, 1]
    if not len(begins):
        return None
    together = begins[:, None] + ends[None, :]
    width = np.arange(len(begins))
    length = width[None, :] - width[:, None]
    together[(length < 0) | (length >= MOST_TOKENS)] = -np.inf
    first, last = np.unravel_index(int(together.argmax()), together.shape)
    start, end = one.offsets[inside[first + 1]][0], one.offsets[inside[last + 1]][1]
    return Span(context[start:end], start, end, FOUND, float(np.exp(together[first, last])))


def _log_sum(values: Floats) -> Floats:
    highest = values.max(axis=0)
    found: Floats = highest + np.log(np.exp(values - highest).sum(axis=0))
    return found
