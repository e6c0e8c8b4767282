"""One request on its way through the engine. No torch here."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Literal

from weft.engine.params import SamplingParams
from weft.engine.text import TextStream

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithm of a drawn token's probability, and the likeliest (token, logarithm), best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sequence:
    """The state of a request: its tokens (``limit`` new ones at most), what is cached, its text so far.

    ``owner`` is whose turn is counted when requests queue (an API key, say); ``adapter`` names the LoRA
    adapter it runs through; a greater ``priority`` goes first. ``logprobs`` has an entry for each new token
    when its parameters ask for them.
    """

    def __init__(
        self,
        prompt: Tokens[int],
        params: SamplingParams,
        *,
        seed: int,
        limit: int,
        text: TextStream,
        owner: str = "",
        adapter: str | None = None,
        priority: int = 0,
    ):
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens)
        self.params, self.seed, self.limit = params, seed, limit
        self.text = text
        self.owner, self.adapter, self.priority = owner, adapter, priority
        self.cached = 0
        self.slot: int | None = None
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprobs] = []
        self._unread: list[str] = []

    @property
    def generated(self) -> list[int]:
        """The new tokens; an end-of-text token that ended the answer is the last of them."""
        return self.tokens[self.prompt_length :]

    @property
    def generated_length(self) -> int:
        """How many tokens are new."""
        return len(self.tokens) - self.prompt_length

    @property
    def uncached(self) -> int:
        """Tokens that the model has not seen yet: the prompt at first, later the newest token."""
        return len(self.tokens) - self.cached

    @property
    def finished(self) -> bool:
        """Whether no further token will come."""
        return self.finish_reason is not None

    def publish(self, piece: str) -> None:
        """Add text that may be shown."""
        if piece:
            self._unread.append(piece)

    def take(self) -> str:
        """The text published since the last call."""
        piece = "".join(self._unread)
        self._unread.clear()
        return piece
