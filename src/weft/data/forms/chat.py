"""Conversations, rendered with the tokenizer's chat template; the assistant's turns are the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.core.errors import DataError
from weft.data.conversations import parse
from weft.data.forms.base import Made, Parsed, Unlabelled
from weft.tokenizer import Tokenizer
from weft.tokenizer.answers import encode_answers


class Chat(Unlabelled):
    """An example is a list of messages."""

    name = "chat"

    def example(self, record: Any) -> Parsed:
        """See :func:`weft.data.conversations.parse`."""
        return parse(record)

    def texts(self, example: Any) -> Sequence[str]:
        """Of each message."""
        return [message["content"] for message in example]

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """One document each."""
        return [
            made if isinstance(made, DataError) else [Made(made.ids, made.answers)]
            for made in encode_answers(tokenizer, examples)
        ]
