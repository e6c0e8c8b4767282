"""ChatML conversations as text and as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.core.errors import DataError
from weft.tokenizer.encode import Tokenizer
from weft.tokenizer.special import TURN_END, TURN_START


def render(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
    """The text that the ChatML template gives for ``messages`` (each with ``role`` and ``content``)."""
    turns = [f"{TURN_START}{role}\n{content}{TURN_END}\n" for role, content in map(_checked, messages)]
    return "".join(turns) + (f"{TURN_START}assistant\n" if add_generation_prompt else "")


def encode(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
) -> list[int]:
    """Token ids of a conversation.

    Only the markers become special tokens: a message that spells ``<|im_end|>`` stays plain text and
    cannot end its turn. DataError for a message without role or content, or a tokenizer without ChatML.
    """
    start, end = tokenizer.token_id(TURN_START), tokenizer.token_id(TURN_END)
    if start is None or end is None:
        raise DataError(f"The tokenizer has no {TURN_START} and {TURN_END}, so it cannot write ChatML turns.")
    ids: list[int] = []
    for role, content in map(_checked, messages):
        ids += [start, *tokenizer.encode_message(f"{role}\n{content}"), end, *tokenizer.encode("\n")]
    return ids + ([start, *tokenizer.encode("assistant\n")] if add_generation_prompt else [])


def _checked(message: Mapping[str, str]) -> tuple[str, str]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(f"A chat message needs a text role and a text content, not {dict(message)!r}.")
    return role, content
