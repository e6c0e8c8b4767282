"""Prompts to token ids, checked against what the engine can hold."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items

from weft.core.errors import UsageError
from weft.engine.blocks import BLOCK
from weft.tokenizer import Tokenizer, chat

Prompt = str | Items[int]


class Prompts:
    """Encodes prompts for a model of ``vocabulary`` tokens whose cache holds ``context`` of them a sequence.

    ``longest_source`` is that of an encoder-decoder in one step; None for a decoder.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, context: int, longest_source: int | None):
        self._tokenizer, self._vocabulary, self._context = tokenizer, vocabulary, context
        self._longest_source = longest_source

    def encode(self, prompt: Prompt, room: int) -> list[int]:
        """See :meth:`weft.engine.LLM.encode`."""
        if not isinstance(prompt, Items):
            raise UsageError(f"A prompt is a text or token ids, not {prompt!r}.")
        tokens = self._encoded(prompt) if isinstance(prompt, str) else list(prompt)
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
            raise UsageError("A prompt of token ids must hold whole numbers only.")
        if not tokens:
            raise UsageError("The prompt has no tokens; give at least one.")
        known = self._vocabulary
        if not 0 <= min(tokens) <= max(tokens) < known:
            wrong = next(token for token in tokens if not 0 <= token < known)
            raise UsageError(f"The prompt holds token id {wrong}, but the model knows {known} tokens.")
        most = self._longest_source
        if most is not None and len(tokens) > most:
            raise UsageError(
                f"The source has {len(tokens)} tokens, but a step reads {most} at most; shorten it, or give "
                "the engine a larger token_budget."
            )
        if self.left(tokens) < room:
            left = " and at least one must be left for the answer" if room else ""
            raise UsageError(
                f"The prompt has {len(tokens)} tokens, but the context holds {self._context}{left}; shorten "
                "the prompt."
            )
        return tokens

    def encode_chat(self, messages: Items[Mapping[str, str]]) -> list[int]:
        """See :meth:`weft.engine.LLM.encode_chat`."""
        return self.encode([*self._tokenizer.start_ids, *chat.encode(self._tokenizer, messages)], 1)

    def left(self, tokens: Items[int]) -> int:
        """How many tokens of an answer there is room for."""
        if self._longest_source is not None:
            # Blocks hold a source or what is written, and the answer begins with a token that counts.
            return self._context - -(-len(tokens) // BLOCK) * BLOCK - 1
        return self._context - len(tokens)

    def _encoded(self, text: str) -> list[int]:
        if self._longest_source is not None:
            return [*self._tokenizer.encode(text), self._tokenizer.eos_id]
        return [*self._tokenizer.start_ids, *self._tokenizer.encode(text)] or [self._tokenizer.eos_id]
