"""Span corruption: spans of a text are left out, and the decoder says what stood there.

Raffel et al. 2020 (T5, arXiv:1910.10683), section 3.1.4, and its ``random_spans_noise_mask``: of n tokens
round(n d) are noise, in round(n d / m) spans (d: density 0.15, m: mean length 3); the lengths of the spans
and of the text between them are drawn uniformly among all that sum up so, and the text comes first. Each span
is one sentinel in the source; the target is each sentinel with what it hides. Both end with the end of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import ConfigError, DataError
from weft.data.batch import IGNORED, Batch, PairBatch
from weft.data.loader import Gathers
from weft.data.noised import Noised
from weft.data.order import words
from weft.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]
_STREAM = 1 << 33


@dataclass(frozen=True)
class Corruption:
    """``density``: share of the tokens that is hidden; ``mean_span``: mean tokens of a span."""

    density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.density < 1 or not 1 <= self.mean_span < float("inf"):
            raise ConfigError(
                f"Corruption with density {self.density} and mean span {self.mean_span} is not possible; "
                "give a density between 0 and 1 and a mean of at least 1."
            )

    def counts(self, tokens: int) -> tuple[int, int]:
        """(noise tokens, spans) of a text of ``tokens``; none in a text of one."""
        if tokens < 2:
            return 0, 0
        noise = min(max(round(tokens * self.density), 1), tokens - 1)
        return noise, min(max(round(noise / self.mean_span), 1), noise, tokens - noise)

    def lengths(self, tokens: int) -> tuple[int, int]:
        """(source, target) positions that a text of ``tokens`` needs."""
        noise, spans = self.counts(tokens)
        return tokens - noise + spans + 1, noise + spans + 1

    def text_length(self, source_length: int) -> int:
        """The longest text whose source fits into ``source_length``: what the loader below gets as rows."""
        tokens = source_length
        while self.lengths(tokens + 1)[0] <= source_length:
            tokens += 1
        return tokens


class SpanLoader(Noised[PairBatch]):
    """The rows of another loader as corrupted texts: a pure function of (seed, sample).

    A row is one text, its ends of text included, as in T5: documents in it see each other. No token is
    lost: every one is in the source or in the target. The loader below should have rows of
    ``corruption.text_length(source_length)``.
    """

    def __init__(
        self,
        loader: Gathers,
        sequence_length: int,
        tokenizer: Tokenizer,
        seed: int,
        corruption: Corruption | None = None,
        start_id: int | None = None,
        sentinels: Sequence[int] | None = None,
    ) -> None:
        """``sequence_length``: that of the rows of ``loader``.

        ``sentinels``: their ids in order, by default tokens of the tokenizer that can serve; they may lie
        behind the vocabulary, for a model with room for them. DataError for too few.
        """
        super().__init__(loader)
        self._seed = seed
        self._corruption = corruption or Corruption()
        self.source_length, self.target_length = self._corruption.lengths(sequence_length)
        needed = self._corruption.counts(sequence_length)[1]
        self._sentinels = np.array(sentinels) if sentinels is not None else sentinel_ids(tokenizer, needed)
        if len(self._sentinels) < needed:
            raise DataError(f"Rows of {sequence_length} tokens need {needed} sentinels; give as many ids.")
        self._eos_id = tokenizer.eos_id
        self._start_id = self._eos_id if start_id is None else start_id

    def changed(self, plain: Batch, samples: range, part: int) -> PairBatch:
        """``plain`` with spans cut out of its rows."""
        texts = plain.targets
        left, right = (len(samples), self.source_length), (len(samples), self.target_length)
        source, targets = np.full(left, self._eos_id, np.int64), np.full(right, IGNORED, np.int64)
        source_pair, target_pair = np.full(left, -1, np.int32), np.full(right, -1, np.int32)
        document_start = np.tile(np.arange(right[1], dtype=np.int32), (right[0], 1))
        for row, sample in enumerate(samples):
            text = texts[row][texts[row] != IGNORED]
            draws = words(2 * len(text), self._seed, sample, part, _STREAM)
            noise = noise_mask(len(text), self._corruption, draws)
            # A text of one token stays whole; its target is an end of text.
            kept, hidden = self._marked(text, noise), self._marked(text[: len(text) * noise.any()], ~noise)
            source[row, : len(kept)], source_pair[row, : len(kept)] = kept, 0
            targets[row, : len(hidden)], target_pair[row, : len(hidden)] = hidden, 0
            document_start[row, : len(hidden)] = 0
        tokens = np.full(right, self._eos_id, np.int64)
        tokens[:, 1:] = np.where(target_pair[:, 1:] == 0, targets[:, :-1], self._eos_id)
        tokens[:, 0] = self._start_id
        return PairBatch(source, source_pair, tokens, targets, document_start, target_pair)

    def _marked(self, text: Ints, away: npt.NDArray[np.bool_]) -> Ints:
        """``text`` without ``away``, each stretch of which is one sentinel, and the end of text."""
        away = away[: len(text)]
        first = away & ~np.concatenate([np.zeros(1, bool), away])[:-1]
        values = text.copy()
        values[first] = self._sentinels[: int(first.sum())]
        return np.append(values[first | ~away], self._eos_id)


def noise_mask(size: int, corruption: Corruption, draws: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of ``size`` tokens are noise; ``draws`` [at least 2 ``size``] decide."""
    noise, spans = corruption.counts(size)
    if not spans:
        return np.zeros(size, bool)
    text = _parts(size - noise, spans, draws[:size])
    hidden = _parts(noise, spans, draws[size : 2 * size])
    lengths = np.stack([text, hidden], 1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def sentinel_ids(tokenizer: Tokenizer, count: int) -> Ints:
    """Ids of ``count`` sentinels: ``<extra_id_0>`` and on, as in T5, or reserved tokens; else DataError."""
    for name in ("<extra_id_{}>", "<|reserved_{}|>"):
        found = [tokenizer.token_id(name.format(number)) for number in range(count)]
        if None not in found:
            return np.array(found, np.int64)
    raise DataError(
        f"Rows of this length need {count} sentinels <extra_id_0> to <extra_id_{count - 1}>, which the "
        "tokenizer lacks; add them to it, or give ids behind its vocabulary."
    )


def _parts(size: int, count: int, draws: npt.NDArray[np.uint64]) -> Ints:
    """``size`` as a sum of ``count`` numbers from 1, uniformly among all such sums."""
    cuts = np.sort(np.argsort(draws[: size - 1], kind="stable")[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [size]]))
