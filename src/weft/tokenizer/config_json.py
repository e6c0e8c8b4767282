"""What a tokenizer_config.json says of special tokens and chat templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.core.errors import DataError
from weft.tokenizer.special import CHATML_TEMPLATE, MASK

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that have a part, and that chat templates know by it."""


def own(end: str, *, masks: bool) -> dict[str, Any]:
    """The content for a tokenizer of Weft's own, whose end of text is ``end``."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
        "chat_template": CHATML_TEMPLATE,
        **({"mask_token": MASK} if masks else {}),
    }


def names(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by their part, a name or an object with its ``content`` each."""
    given = {part: config.get(part) for part in NAMED}
    found = {part: one.get("content") if isinstance(one, dict) else one for part, one in given.items()}
    return {part: name for part, name in found.items() if isinstance(name, str) and name}


def template(config: Mapping[str, Any], *, tools: bool) -> str | None:
    """The chat template, if there is one: of several with names ``tool_use`` for conversations with
    ``tools``, else ``default``. DataError where neither can be told.
    """
    given = config.get("chat_template")
    if isinstance(given, list):
        try:
            named = {one["name"]: one["template"] for one in given}
        except (TypeError, KeyError):
            raise DataError(
                "The tokenizer's chat_template must be a text, or a list of objects with name and template."
            ) from None
        chosen = "tool_use" if tools and "tool_use" in named else "default"
        if chosen not in named:
            raise DataError(
                "The tokenizer has chat templates with names, but none is named default; name one so."
            )
        given = named[chosen]
    if given is not None and not isinstance(given, str):
        raise DataError("The tokenizer's chat template must be a text; copy its tokenizer_config.json again.")
    return given
