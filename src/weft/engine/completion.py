"""A finished answer. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from weft.engine.sequence import FinishReason, Sequence, TokenLogprobs


@dataclass(frozen=True)
class Completion:
    """An answer: ``text`` without the stop string, all new ``tokens``, and why it ended.

    ``finish_reason`` is "stop" (end of text or a stop string), "length" (``max_tokens`` or the end of the
    context) or "abort". ``logprobs`` has an entry for each of ``tokens``, and ``prompt_logprobs`` one for
    each token of the prompt, the first None; both are None unless the parameters ask for them.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None

    @classmethod
    def of(cls, sequence: Sequence, text: str) -> Completion:
        """The answer of a finished sequence whose whole text is ``text``."""
        assert sequence.finish_reason is not None
        params, tokens = sequence.params, tuple(sequence.generated)
        of_prompt = None if params.prompt_logprobs is None else tuple(sequence.prompt_logprobs)
        own = None if params.logprobs is None else tuple(sequence.logprobs)
        return cls(text, tokens, sequence.finish_reason, sequence.prompt_length, of_prompt, own)
