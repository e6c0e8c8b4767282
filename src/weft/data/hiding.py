"""Token dropout: some tokens of labelled texts are hidden while a network learns from them.

Iyyer et al. 2015 ("Deep unordered composition rivals syntactic methods", word dropout); here a token is
hidden behind the mask that masked language models know, and stays where it was, so that labels of tokens
still fit. B rows, T positions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from weft.data.masking import mask_id
from weft.data.order import words
from weft.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]

_STREAM = 3 << 32
_FRACTION = 2.0**-64


class Hiding:
    """Hides the share ``rate`` of the tokens that are text: a pure function of (seed, sample)."""

    def __init__(self, tokenizer: Tokenizer, rate: float) -> None:
        """DataError for a tokenizer without a mask."""
        self.rate, self._mask_id = rate, mask_id(tokenizer)
        # Ends of texts and markers of predicates tell the network where things stand.
        self._special = np.fromiter(tokenizer.special_ids, np.int64)

    def hidden(self, tokens_BT: Ints, samples: Ints, seed: int) -> Ints:
        """``tokens`` [B, T], some of them the mask; ``samples`` [B] are the global numbers of the rows."""
        width = tokens_BT.shape[1]
        draws_BT = np.stack([words(width, seed, sample, 0, _STREAM) for sample in samples.tolist()])
        chosen_BT = (draws_BT * _FRACTION < self.rate) & ~np.isin(tokens_BT, self._special)
        return np.where(chosen_BT, self._mask_id, tokens_BT)
