"""A finished answer. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from weft.engine.sequence import FinishReason, Sequence


@dataclass(frozen=True)
class Completion:
    """An answer: ``text`` without the stop string, all new ``tokens``, and why it ended.

    ``finish_reason`` is "stop" (end of text or a stop string), "length" (``max_tokens`` or the end of the
    context) or "abort".
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int

    @classmethod
    def of(cls, sequence: Sequence, text: str) -> Completion:
        """The answer of a finished sequence whose whole text is ``text``."""
        assert sequence.finish_reason is not None
        return cls(text, tuple(sequence.generated), sequence.finish_reason, sequence.prompt_length)
