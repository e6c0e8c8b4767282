"""A summary out of a text: pieces of it that say most of what a summary would say, in the order of the text.

The model tells of each token how likely a summary has it too. Pieces are taken as oracles for extractive
summaries are made (Nallapati et al. 2017, arXiv:1611.04230; BERTSUM, arXiv:1908.08345): each time the one
that raises F1 most, here its expectation for a summary of the greatest length that is allowed.

T tokens of a text, C classes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.data.forms.extractive import LABELS, inside
from weft.data.forms.offsets import Placed, placed
from weft.data.sentences import UNITS, Unit
from weft.tasks.results import Scored, Span
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]

_PAUSES = "，；：,;:"


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Placed]:
    """Each text as one document."""
    return placed(tokenizer, texts)


def decode(
    text: str, one: Placed, shares_TC: Floats, unit: Unit, max_length: int, usual: float = 0.0
) -> Scored:
    """The summary of at most ``max_length`` tokens, with the pieces that it is made of as ``spans``.

    Scores are mean probabilities: what share of the words a summary would have. A piece that does not fit is
    passed over; where the best one does not, its beginning is the summary, which is not confident.
    """
    hits_T = shares_TC[:, 1]
    runs = [run for run in inside(one, UNITS[unit](text)) if run]
    taken = choose(hits_T, runs, max_length)
    spans = tuple(_span(text, one, hits_T, run) for run in taken)
    score = float(np.mean([span.score for span in spans])) if spans else 0.0
    whole = bool(taken) and all(run in runs for run in taken)
    answer = joined([span.text for span in spans])
    return Scored(answer, score, spans=spans, confident=whole and score >= 0.5 * usual)


def choose(hits_T: Floats, runs: Sequence[range], most: int) -> list[range]:
    """The runs of tokens to take, in their order, of ``most`` tokens together; or the first part of one."""
    taken: list[range] = []
    said, length, best = 0.0, 0, -1.0
    rest = [(run, float(hits_T[run.start : run.stop].sum())) for run in runs]
    while rest:
        gains = [(said + hits) / (length + len(run) + most) for run, hits in rest]
        place = int(np.argmax(gains))
        if gains[place] <= best:
            break
        run, hits = rest.pop(place)
        if length + len(run) <= most:
            said, length, best = said + hits, length + len(run), gains[place]
            taken.append(run)
        elif not taken:
            return [run[:most]]
    return sorted(taken, key=lambda run: run.start)


def joined(pieces: Sequence[str]) -> str:
    """Pieces as one text: a space between them, but none behind Chinese punctuation; no comma at the end."""
    found = ""
    for piece in pieces:
        wide = found and unicodedata.east_asian_width(found[-1]) in "WF"
        closed = wide and unicodedata.category(found[-1])[0] == "P"
        found += piece if not found or closed else f" {piece}"
    return found.rstrip(_PAUSES)


def _span(text: str, one: Placed, hits_T: Floats, run: range) -> Span:
    start, stop = one.offsets[run[0]][0], one.offsets[run[-1]][1]
    stop = start + len(text[start:stop].rstrip())
    return Span(text[start:stop], start, stop, LABELS[1], float(hits_T[run.start : run.stop].mean()))
