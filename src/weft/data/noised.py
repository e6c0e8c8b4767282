"""Rows of a loader with noise: hidden tokens, or spans cut out; a pure function of (seed, sample)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

from weft.data.batch import Batch
from weft.data.loader import Gathers, Loader
from weft.data.mixed import MixedLoader
from weft.tokenizer import Tokenizer

B = TypeVar("B")


class Noised(ABC, Generic[B]):
    """The rows of ``loader``, changed. What is not about the noise is asked of that loader."""

    def __init__(self, loader: Gathers) -> None:
        self._loader, self.batch_rows = loader, loader.batch_rows

    @abstractmethod
    def changed(self, plain: Batch, samples: range, part: int) -> B:
        """``plain`` with the noise of the rows ``samples``; ``part`` tells training and validation apart."""

    def batch(self, step: int) -> B:
        """Batch number ``step`` (from 0)."""
        first = step * self.batch_rows
        return self.gather(range(first, first + self.batch_rows))

    def gather(self, samples: range) -> B:
        """The rows with these global sample numbers, changed."""
        return self.changed(self._loader.gather(samples), samples, 0)

    def sequential(self, batch_rows: int | None = None) -> Iterator[B]:
        """Every row exactly once, with the same noise each time."""
        assert isinstance(self._loader, Loader)
        first = 0
        for plain in self._loader.sequential(batch_rows):
            samples = range(first, first + len(plain.tokens))
            yield self.changed(plain, samples, 1)
            first = samples.stop

    @property
    def rows(self) -> int:
        """Packed rows of one epoch."""
        return self._whole.rows

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of the text of one epoch."""
        return self._whole.tokens_per_epoch

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary that the shards were encoded with."""
        return self._whole.vocab_size

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the tokens in the shards."""
        return self._whole.data_fingerprint

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """DataError unless the shards were made with exactly this tokenizer."""
        self._whole.check_tokenizer(tokenizer)

    @property
    def _whole(self) -> Loader | MixedLoader:
        assert isinstance(self._loader, (Loader, MixedLoader))
        return self._loader
