"""What a form of supervised examples does: read a record, and encode what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from weft.core.errors import DataError
from weft.tokenizer import Tokenizer

Parsed = tuple[Any, str | None, str | None]
"""``(example, reason, value)``: the example, or why there is none and what was found."""


@dataclass(frozen=True)
class Made:
    """One document: its tokens, and either where answers lie or a label for each token.

    ``answers``: ``[start, stop, start, stop, ...]`` in tokens. ``labels``: as many as ``ids``, IGNORED where
    a token has none.
    """

    ids: list[int]
    answers: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class Form(Protocol):
    """A form of examples. ``labels``: the names of the classes, empty where there are none."""

    name: str
    labels: tuple[str, ...]

    def example(self, record: Any) -> Parsed:
        """What a record says."""
        ...

    def key(self, example: Any) -> Any:
        """What makes two examples the same, as JSON can spell it: without the label, where there is one."""
        ...

    def classes(self, example: Any) -> Sequence[str]:
        """The classes that an example names."""
        ...

    def texts(self, example: Any) -> Sequence[str]:
        """What a tokenizer can learn from."""
        ...

    def with_labels(self, labels: Sequence[str]) -> Form:
        """The same form, knowing the classes that occur in training."""
        ...

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """The documents of each example, mostly one, or why it cannot be encoded."""
        ...

    def counts(self, example: Any) -> Counter[str]:
        """How often an example names each class, for the shares in the manifest."""
        ...


def text_of(record: Any, name: str) -> str | None:
    """The text that a record has under a name; numbers count as texts, as in tables they are the same."""
    found = record.get(name) if isinstance(record, dict) else None
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return str(found)
    return found if isinstance(found, str) else None


def names_of(record: Any) -> str:
    """The first names in a record, or what it is, for the reason of a drop."""
    return ", ".join(list(map(str, record))[:8]) if isinstance(record, dict) else type(record).__name__


def spells_utf8(*texts: str) -> bool:
    """Whether the texts are free of lone surrogates."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Unlabelled:
    """What forms without classes have in common."""

    labels: tuple[str, ...] = ()

    def classes(self, example: Any) -> Sequence[str]:
        """None."""
        return ()

    def with_labels(self, labels: Sequence[str]) -> Any:
        """The form itself."""
        return self

    def counts(self, example: Any) -> Counter[str]:
        """Nothing to count."""
        return Counter()

    def key(self, example: Any) -> Any:
        """All of it."""
        return example
