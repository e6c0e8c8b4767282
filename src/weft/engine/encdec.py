"""Writing with an encoder-decoder: many sources at once, greedily or by beam search.

Dimensions: N sources, K beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from weft.core.errors import UsageError
from weft.engine.search import Beams, Candidate, Search, Written
from weft.models.encdec import EncoderDecoder

_ROWS = 256
"""Sequences, beams counted, that are written together."""


def write(
    model: EncoderDecoder, sources: Sequence[Sequence[int]], start: int, end: int, how: Beams
) -> list[list[Written]]:
    """The answers to each source, best first. ``start`` is the decoder's first token, ``end`` the last.

    Sources of like length are written together. UsageError for an empty source.
    """
    if not all(sources):
        raise UsageError("A source without tokens cannot be answered; leave empty texts out.")
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    found: list[list[Written]] = [[] for _ in sources]
    size = max(1, _ROWS // how.beams)
    for first in range(0, len(order), size):
        places = order[first : first + size]
        batch = BeamBatch(model, [sources[place] for place in places], start, end, how)
        while not batch.done:
            batch.step()
        for number, place in enumerate(places):
            found[place] = batch.answers(number)
    return found


class BeamBatch:
    """Sources that are written together: every :meth:`step` brings each of their beams one token further."""

    @torch.inference_mode()
    def __init__(
        self, model: EncoderDecoder, sources: Sequence[Sequence[int]], start: int, end: int, how: Beams
    ):
        self._model, self._how, self._length = model.eval(), how, 0
        K, device = how.beams, model.embedding.weight.device
        self._writing = model.begin(*_padded(sources, end, device), how.max_tokens)
        self._writing.choose(torch.arange(len(sources), device=device).repeat_interleave(K))
        self._searches = [Search(how, [end], how.max_tokens) for _ in sources]
        self._alive = list(self._searches)
        # At first all beams of a source are the same one: the others must not be chosen.
        self._totals = torch.full((len(sources), K), float("-inf"), device=device)
        self._totals[:, 0] = 0.0
        self._tokens = torch.full((len(sources) * K,), start, device=device)
        self._written = self._tokens.new_empty((len(sources), K, 0))

    @property
    def done(self) -> bool:
        """Whether nothing is left to write."""
        return all(search.done for search in self._searches)

    def answers(self, number: int) -> list[Written]:
        """The answers to a source, best first."""
        return self._searches[number].answers

    @torch.inference_mode()
    def step(self) -> None:
        """Write one token more in each beam."""
        self._length += 1
        logs = self._model.step(self._tokens, self._writing).log_softmax(-1)
        best = _candidates(self._totals, logs.view(len(self._alive), self._how.beams, -1))
        for search, rows in zip(self._alive, self._written, strict=True):
            search.take(self._length, next(best), _tokens(rows))
        if kept := [place for place, search in enumerate(self._alive) if not search.done]:
            self._go_on(kept)

    def _go_on(self, kept: list[int]) -> None:
        """Keep the searches in these places, with the beams that go on."""
        changed = len(kept) < len(self._alive)
        self._alive = [self._alive[place] for place in kept]
        device = self._tokens.device
        going = torch.tensor([one.ahead for one in self._alive], dtype=torch.float64, device=device)
        self._totals = going[..., 0].float()
        beams = going[..., 1].long() + self._how.beams * torch.tensor(kept, device=device).unsqueeze(1)
        tokens = going[..., 2].long()
        self._written = torch.cat([self._written.flatten(0, 1)[beams], tokens.unsqueeze(-1)], -1)
        self._tokens = tokens.flatten()
        (self._writing.choose if changed else self._writing.reorder)(beams.flatten())


def _tokens(rows: Tensor) -> Callable[[int], list[int]]:
    """What a beam has written, of int64 [K, L]."""
    return lambda beam: [int(token) for token in rows[beam]]


def _padded(sources: Sequence[Sequence[int]], end: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """int64 [N, S] and the lengths [N]."""
    lengths = [len(source) for source in sources]
    rows = [[*source, *[end] * (max(lengths) - len(source))] for source in sources]
    return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)


def _candidates(totals_NK: Tensor, logs_NKV: Tensor) -> Iterator[Iterator[Candidate]]:
    """Of each source the 2 K best continuations of its beams, of which at least K do not end."""
    vocabulary = logs_NKV.shape[-1]
    flat = (totals_NK.unsqueeze(-1) + logs_NKV).flatten(1)
    best, place = flat.topk(min(2 * totals_NK.shape[1], flat.shape[1]), dim=1)
    beam = torch.div(place, vocabulary, rounding_mode="floor")
    for row in zip(best.tolist(), beam.tolist(), (place % vocabulary).tolist(), strict=True):
        yield zip(*row, strict=True)
