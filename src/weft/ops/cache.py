"""What a model asks of whoever runs it: where keys and values live, and what each position may see.

Training passes packed rows, the engine passes its cache; the model is the same and knows neither paging
nor masks. Of an encoder-decoder N flat rows, each a token of some sequence, are read or written at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(slots=True)
class NativeAttention:
    """Attention as native code calls it: the addresses of the function and of its first two arguments, and of
    the int32 position of each row, all below ``longest``.

    They hold as long as the context does that gave them.
    """

    function: int
    cache: int
    step: int
    positions: int
    longest: int


class NativeContext(AttentionContext, Protocol):
    """An attention context that a native decoder can use by itself, without coming back to Python for each
    layer."""

    def native(self, q_NHD: Tensor) -> NativeAttention | None:
        """For queries like these, of any number, on a CPU; None where only :meth:`attend` serves."""
        ...


class NativeModel:
    """A decoder that can make a whole step of the engine in one native call. A class to inherit: asking
    whether an object fulfils a protocol takes as long as a small layer."""

    def step(
        self, tokens: Sequence[int], wanted: Sequence[int], context: NativeContext
    ) -> tuple[Tensor, Tensor] | None:
        """Of N ``tokens``: final hidden states, fp32, the first N rows of a tensor that holds until the next
        step, and scores, fp32 [M, V], of the M rows that are ``wanted``. None where the model must be called
        layer by layer.
        """
        raise NotImplementedError


class ReadingContext(Protocol):
    """A pass of an encoder over sources. H heads."""

    def attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        """[N, H, D]: each row over all rows of its own source, with the encoder's bias."""
        ...

    def keep(self, layer: int, k_NHD: Tensor, v_NHD: Tensor) -> None:
        """What ``layer`` of the decoder will see of the sources; asked for after all attention."""
        ...


class WritingContext(Protocol):
    """A pass of a decoder that also looks at a source. H heads."""

    def attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        """[N, H, D]: each row over what its sequence has written, with the decoder's bias; stored first."""
        ...

    def attend_source(self, layer: int, q_NHD: Tensor) -> Tensor:
        """[N, H, D]: each row over what was kept of its source."""
        ...
