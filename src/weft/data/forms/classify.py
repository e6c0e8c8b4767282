"""Texts with one label each: sentiment, topics, any classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from weft.core.errors import DataError
from weft.data.batch import IGNORED
from weft.data.forms.base import Made, Parsed, names_of, spells_utf8, text_of
from weft.data.forms.offsets import placed
from weft.tokenizer import Tokenizer


class Classify:
    """An example is ``[text, label]``. The label of a document stands at its first token."""

    name = "classify"

    def __init__(self, fields: Sequence[str] = ("text", "label"), labels: Sequence[str] = ()):
        if len(fields) != 2:
            raise DataError(f"A labelled text has two fields, not {list(fields)}; name text and label.")
        self._fields, self.labels = tuple(fields), tuple(labels)

    def example(self, record: Any) -> Parsed:
        """``([text, label], reason, value)``."""
        text, label = (text_of(record, name) for name in self._fields)
        if text is None or label is None:
            return None, "no_label" if label is None else "no_text", names_of(record)
        if not text.strip():
            return None, "empty", self._fields[0]
        if not spells_utf8(text, label):
            return None, "invalid_encoding", "lone surrogate"
        return [text, label.strip()], None, None

    def key(self, example: Any) -> Any:
        """The text, however it is spaced."""
        return " ".join(example[0].split())

    def classes(self, example: Any) -> Sequence[str]:
        """Its label."""
        return (example[1],)

    def counts(self, example: Any) -> Counter[str]:
        """Its label, once."""
        return Counter([example[1]])

    def with_labels(self, labels: Sequence[str]) -> Classify:
        """The same, knowing the classes."""
        return Classify(self._fields, labels)

    def texts(self, example: Any) -> Sequence[str]:
        """The text."""
        return [example[0]]

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """One document each."""
        number = {label: n for n, label in enumerate(self.labels)}
        return [
            [Made(one.ids, labels=[number[label], *[IGNORED] * (len(one.ids) - 1)])]
            for one, (_, label) in zip(placed(tokenizer, [e[0] for e in examples]), examples, strict=True)
        ]
