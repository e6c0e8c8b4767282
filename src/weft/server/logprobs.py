"""Log probabilities of tokens in the two forms of OpenAI's API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.engine.text import text_stream
from weft.server.wire import Logprob
from weft.tokenizer import Tokenizer

_LEAST = -9999.0
"""What OpenAI's API says in place of minus infinity, which JSON does not know."""


def chat_logprobs(tokenizer: Tokenizer, entries: list[Logprob]) -> dict[str, Any]:
    """``content`` with a record for each token: its text, bytes, log probability, and the likeliest."""

    def record(token: int, value: float) -> dict[str, Any]:
        return {
            "token": spelling(tokenizer, token),
            "logprob": _number(value),
            "bytes": list(_bytes(tokenizer, token)),
        }

    content = [
        {**record(token, value), "top_logprobs": [record(*other) for other in top]}
        for token, value, top in entries
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokenizer: Tokenizer, entries: list[Logprob], offsets: list[int]) -> dict[str, Any]:
    """Four lists with an item for each token; ``offsets`` are the places of the tokens in the text.

    The first token of a prompt has null for its log probability and for its alternatives.
    """
    tops = [None if own is None else _by_spelling(tokenizer, top) for _, own, top in entries]
    return {
        "tokens": [spelling(tokenizer, token) for token, _, _ in entries],
        "token_logprobs": [None if value is None else _number(value) for _, value, _ in entries],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }


def _by_spelling(tokenizer: Tokenizer, top: list[tuple[int, float]]) -> dict[str, float]:
    """The likeliest first, as they come; of tokens that are spelled alike the likeliest counts."""
    found: dict[str, float] = {}
    for token, value in top:
        found.setdefault(spelling(tokenizer, token), _number(value))
    return found


@dataclass(frozen=True)
class Echo:
    """The text of a prompt that stands before its answer. Where the prompt was given as token ids its special
    tokens are spelled in it."""

    text: str
    from_ids: bool = False


class Places:
    """Where tokens begin in the text of an answer, in characters, behind the prompt's text if it is echoed.

    A token that begins within a character begins where that does; special tokens have no text in answers.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], echo: Echo | None):
        self._tokenizer, self._echo = tokenizer, echo or Echo("")
        self._stream = text_stream(tokenizer, prompt)
        self._place = len(self._echo.text)

    def of_prompt(self, tokens: Sequence[int]) -> list[int]:
        """Of all tokens of the prompt."""
        stream, place = text_stream(self._tokenizer, ()), 0
        places: list[int] = []
        for token in tokens:
            places.append(min(place, len(self._echo.text)))
            place += len(stream.push(token))
            if self._echo.from_ids and token in self._tokenizer.special_ids:
                place += len(self._tokenizer.decode([token]))
        return places

    def of_answer(self, tokens: Sequence[int]) -> list[int]:
        """Of the next tokens of the answer."""
        places: list[int] = []
        for token in tokens:
            places.append(self._place)
            self._place += len(self._stream.push(token))
        return places


def spelling(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token; a part of a character is written as OpenAI does, ``bytes:\\xe4\\xbd``."""
    raw = _bytes(tokenizer, token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    if tokenizer.is_byte_level:
        return tokenizer.token_bytes(token)
    byte = tokenizer.fallback_bytes.get(token)
    return tokenizer.piece(token).encode() if byte is None else bytes([byte])


def _number(value: float) -> float:
    return value if math.isfinite(value) else _LEAST
