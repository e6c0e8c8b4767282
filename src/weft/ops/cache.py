"""What a model asks of whoever runs it: where keys and values live, and what each position may see.

Training passes packed rows, the engine passes its cache; the model is the same and knows neither paging
nor masks.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class AttentionContext(Protocol):
    """One forward pass's view of the past. H query heads, G key-value heads (H a multiple of G)."""

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int64 [B, T]: position of every token in its own document or sequence."""
        ...

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[B, T, H, D]: attention of the new queries over all keys and values they may see.

        Scores are scaled by 1/sqrt(D). A cache stores ``k`` and ``v`` of ``layer`` on the way.
        """
        ...
