"""Pairs of texts that lie close in meaning: a question and the passage that answers it, two paraphrases.

Each text is a document of its own, exactly as :meth:`weft.api.able.Able.embed` will read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.core.errors import DataError
from weft.data.forms.base import Made, Parsed, Unlabelled, names_of, spells_utf8, text_of
from weft.data.forms.offsets import placed
from weft.tokenizer import Tokenizer

FIELDS = ("query", "positive")


class Similar(Unlabelled):
    """An example is ``[query, positive]``; ``fields``: their names in records."""

    name = "similar"

    def __init__(self, fields: Sequence[str] = FIELDS):
        """DataError for fields that are not two."""
        if len(fields) != 2:
            raise DataError(f"A pair has two fields, not {list(fields)}; name query and positive.")
        self._fields = tuple(fields)

    def example(self, record: Any) -> Parsed:
        """``([query, positive], reason, value)``."""
        texts = [text for name in self._fields if (text := text_of(record, name)) is not None]
        if len(texts) < 2:
            return None, "no_pair", names_of(record)
        empty = [name for name, text in zip(self._fields, texts, strict=True) if not text.strip()]
        if empty:
            return None, "empty", empty[0]
        if not spells_utf8(*texts):
            return None, "invalid_encoding", "lone surrogate"
        if texts[0] == texts[1]:
            return None, "same_text", "query and positive are the same"
        return texts, None, None

    def texts(self, example: Any) -> Sequence[str]:
        """Query and positive."""
        return list(example)

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """Two documents each, the query first."""
        made = [Made(one.ids) for one in placed(tokenizer, [text for pair in examples for text in pair])]
        return [[query, positive] for query, positive in zip(made[0::2], made[1::2], strict=True)]
