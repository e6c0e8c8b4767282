"""Masked language modelling: some tokens are hidden, and only those are targets.

Devlin et al. 2019 (BERT, arXiv:1810.04805), section 3.1: 15 % of the tokens, of which 80 % become the mask,
10 % another token and 10 % stay. Warner et al. 2024 (ModernBERT, arXiv:2412.13663) take 30 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import ConfigError, DataError
from weft.data.batch import IGNORED, Batch
from weft.data.loader import Gathers
from weft.data.noised import Noised
from weft.data.order import words
from weft.tokenizer import Tokenizer

MASK_NAMES = ("<mask>", "[MASK]", "<|mask|>", "<|reserved_0|>")
_STREAM = 1 << 32
_FRACTION = 2.0**-32


@dataclass(frozen=True)
class Masking:
    """``rate``: share of the tokens that are targets; of these ``masked`` are hidden, ``other`` replaced."""

    rate: float = 0.15
    masked: float = 0.8
    other: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1 or min(self.masked, self.other) < 0 or self.masked + self.other > 1:
            raise ConfigError(
                f"Masking with rate {self.rate}, masked {self.masked} and other {self.other} is not "
                "possible; give a rate between 0 and 1, and shares that sum to 1 at most."
            )


class MaskedLoader(Noised[Batch]):
    """The rows of another loader with masks: a pure function of (seed, sample), whatever the batch.

    ``tokens`` of its batches are the text in place, not shifted; an encoder sees both ways where
    ``document_start`` is equal. Of each row the share asked for, rounded, and at least one token is a
    target; ends of text never are.
    """

    def __init__(
        self,
        loader: Gathers,
        tokenizer: Tokenizer,
        seed: int,
        masking: Masking | None = None,
        mask: int | None = None,
    ) -> None:
        """``mask``: the id that hides others, by default a token of the tokenizer that can serve.

        It may lie behind the vocabulary, for a model with room for it. DataError when there is none.
        """
        super().__init__(loader)
        self._seed = seed
        self._masking = masking or Masking()
        self._mask_id, self._eos_id = mask_id(tokenizer) if mask is None else mask, tokenizer.eos_id
        special = np.fromiter(tokenizer.special_ids, np.int64)
        self._ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), special)

    def changed(self, plain: Batch, samples: range, part: int) -> Batch:
        """``plain`` with some of its tokens hidden."""
        width = plain.targets.shape[1]
        draws = np.stack([words(2 * width, self._seed, sample, part, _STREAM) for sample in samples])
        return self._masked(plain, draws)

    def _masked(self, plain: Batch, draws: npt.NDArray[np.uint64]) -> Batch:
        """``draws`` [B, 2 T]: the first half decides which tokens are targets, the other what they become."""
        given = plain.targets != IGNORED
        text = np.where(given, plain.targets, self._eos_id)
        width = text.shape[1]
        open_to = given & (text != self._eos_id)
        # The lowest draws are taken; what may not be taken comes last.
        rank = np.where(open_to, draws[:, :width] >> np.uint64(1), np.uint64(1) << np.uint64(63))
        place = np.argsort(np.argsort(rank, axis=1, kind="stable"), axis=1, kind="stable")
        have = open_to.sum(1)
        wanted = np.minimum(np.maximum(np.rint(self._masking.rate * have), 1), have)
        chosen = place < wanted[:, None]
        second = draws[:, width:]
        fate = (second >> np.uint64(32)) * _FRACTION
        another = self._ordinary[(second & np.uint64(0xFFFFFFFF)) % np.uint64(len(self._ordinary))]
        hidden = chosen & (fate < self._masking.masked)
        replaced = chosen & ~hidden & (fate < self._masking.masked + self._masking.other)
        tokens = np.where(hidden, self._mask_id, np.where(replaced, another, text))
        return Batch(tokens, np.where(chosen, text, IGNORED), plain.document_start)


def mask_id(tokenizer: Tokenizer) -> int:
    """The token that hides others; DataError when the tokenizer has none of the known names."""
    found = next((i for name in MASK_NAMES if (i := tokenizer.token_id(name)) is not None), None)
    if found is None:
        raise DataError(
            f"The tokenizer has no mask; add one of {', '.join(MASK_NAMES)} to it, or give an id behind its "
            "vocabulary."
        )
    return found
