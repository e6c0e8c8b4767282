"""Writing with an encoder-decoder: many sources at once, greedily or by beam search.

Dimensions: N sources, K beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.core.errors import UsageError
from weft.models.encdec import EncoderDecoder

Candidate = tuple[float, int, int]
"""The sum of logarithms of a beam that goes on, its number, and its next token."""

_ROWS = 256
"""Sequences, beams counted, that are written together."""


@dataclass(frozen=True)
class Written:
    """One answer: its ``tokens`` without start and end, and its ``score``.

    The score is the logarithm of the answer's probability, its end included, over its length to the power of
    the length penalty. ``ended``: the end was written, so that no limit cut the answer off.
    """

    tokens: tuple[int, ...]
    score: float
    ended: bool


@dataclass(frozen=True)
class Beams:
    """How answers are looked for: ``beams`` 1 is greedy.

    ``length_penalty``: 0 compares sums of logarithms, 1 their means (Wu et al. 2016, arXiv:1609.08144, use a
    power between). ``alternatives``: answers returned of each source, best first.
    """

    max_tokens: int = 128
    beams: int = 4
    length_penalty: float = 1.0
    alternatives: int = 1

    def __post_init__(self) -> None:
        if min(self.max_tokens, self.beams, self.alternatives) < 1 or self.alternatives > self.beams:
            raise UsageError(
                f"max_tokens = {self.max_tokens}, beams = {self.beams} and alternatives = "
                f"{self.alternatives} must be at least 1, and alternatives no more than beams."
            )


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


class _Search:
    """The answers that were found for one source."""

    def __init__(self, how: Beams, end: int):
        self.how, self.end = how, end
        self.finished: list[Written] = []
        self.done = False

    def take(self, length: int, best: Iterable[Candidate], written: Tensor) -> list[Candidate]:
        """Of the ``best`` continuations to ``length`` tokens the K that go on; those that end are kept.

        ``written`` int64 [K, length - 1]: what the beams hold. Sets :attr:`done` when no beam can win.
        """
        ahead: list[Candidate] = []
        for rank, (total, beam, token) in enumerate(best):
            if token != self.end:
                ahead.append((total, beam, token))
            elif rank < self.how.beams:
                self.keep(total, length, written[beam], ended=True)
            if len(ahead) == self.how.beams:
                break
        if len(self.finished) >= self.how.beams:
            worst = min(answer.score for answer in self.finished)
            self.done |= self._score(ahead[0][0], length) <= worst
        return ahead

    def keep(self, total: float, length: int, tokens: Tensor, *, ended: bool) -> None:
        """Note an answer, and forget the worst of more than K."""
        self.finished.append(Written(tuple(tokens.tolist()), self._score(total, length), ended))
        self.finished.sort(key=lambda answer: -answer.score)
        del self.finished[self.how.beams :]

    def _score(self, total: float, length: int) -> float:
        return total / float(length**self.how.length_penalty)


class BeamBatch:
    """Sources that are written together: every :meth:`step` brings each of their beams one token further."""

    @torch.inference_mode()
    def __init__(
        self, model: EncoderDecoder, sources: Sequence[Sequence[int]], start: int, end: int, how: Beams
    ):
        self._model, self._how, self.length = model.eval(), how, 0
        K, device = how.beams, model.embedding.weight.device
        self._writing = model.begin(*_padded(sources, end, device), how.max_tokens)
        self._writing.choose(torch.arange(len(sources), device=device).repeat_interleave(K))
        self._searches = [_Search(how, end) for _ in sources]
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

    def finished(self, number: int) -> bool:
        """Whether a source, counted from 0, has its answers."""
        return self._searches[number].done

    def answers(self, number: int) -> list[Written]:
        """The answers to a source that is finished, best first."""
        return self._searches[number].finished[: self._how.alternatives]

    def drop(self, number: int) -> None:
        """Nobody wants the answers to a source any more; with the next step its beams are gone."""
        self._searches[number].done = True

    @torch.inference_mode()
    def step(self) -> None:
        """Write one token more in each beam."""
        self.length += 1
        logs = self._model.step(self._tokens, self._writing).log_softmax(-1)
        best = _candidates(self._totals, logs.view(len(self._alive), self._how.beams, -1))
        ahead = [
            one.take(self.length, next(best), rows)
            for one, rows in zip(self._alive, self._written, strict=True)
        ]
        kept = [place for place, one in enumerate(self._alive) if not one.done]
        if kept:
            self._go_on(kept, [ahead[place] for place in kept])
        if kept and self.length == self._how.max_tokens:
            self._cut()

    def _go_on(self, kept: list[int], ahead: list[list[Candidate]]) -> None:
        """Keep the searches in these places, with the beams that go on."""
        changed = len(kept) < len(self._alive)
        self._alive = [self._alive[place] for place in kept]
        device = self._tokens.device
        going = torch.tensor(ahead, dtype=torch.float64, device=device)
        self._totals = going[..., 0].float()
        beams = going[..., 1].long() + self._how.beams * torch.tensor(kept, device=device).unsqueeze(1)
        tokens = going[..., 2].long()
        self._written = torch.cat([self._written.flatten(0, 1)[beams], tokens.unsqueeze(-1)], -1)
        self._tokens = tokens.flatten()
        (self._writing.choose if changed else self._writing.reorder)(beams.flatten())

    def _cut(self) -> None:
        """What is written when the limit comes is an answer too."""
        for one, scores, rows in zip(self._alive, self._totals.tolist(), self._written, strict=True):
            for total, row in zip(scores, rows, strict=True):
                one.keep(total, self.length, row, ended=False)
            one.done = True


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
