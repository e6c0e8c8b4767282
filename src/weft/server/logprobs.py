"""Log probabilities of tokens in the two forms of OpenAI's API."""

from __future__ import annotations

import math
from typing import Any

from weft.core.errors import DataError
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
            "bytes": _bytes(tokenizer, token),
        }

    content = [
        {**record(token, value), "top_logprobs": [record(*other) for other in top]}
        for token, value, top in entries
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, entries: list[Logprob], offset: int
) -> tuple[dict[str, Any], int]:
    """Four lists with an item for each token, and the offset in the text after them."""
    tokens = [spelling(tokenizer, token) for token, _, _ in entries]
    offsets = []
    for token, _, _ in entries:
        offsets.append(offset)
        offset += len(tokenizer.decode([token]))
    tops = [{spelling(tokenizer, other): _number(value) for other, value in top} for _, _, top in entries]
    return {
        "tokens": tokens,
        "token_logprobs": [_number(value) for _, value, _ in entries],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }, offset


def spelling(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token; a part of a character is written as OpenAI does, ``bytes:\\xe4\\xbd``."""
    text = tokenizer.decode([token])
    if "\ufffd" not in text or (raw := _bytes(tokenizer, token)) is None:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _bytes(tokenizer: Tokenizer, token: int) -> list[int] | None:
    try:
        return list(tokenizer.token_bytes(token))
    except DataError:
        return None


def _number(value: float) -> float:
    return value if math.isfinite(value) else _LEAST
