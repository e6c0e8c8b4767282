"""Pairs of a source and a target: translations, summaries.

A pair is stored as its source, an end of text, its target, an end of text; the target with its end is the
answer. With languages every source begins with the name of the language to write in, so that one model
serves both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.core.errors import DataError
from weft.data.forms.base import Made, Parsed, Unlabelled, names_of, spells_utf8
from weft.tokenizer import Tokenizer


class Pairs(Unlabelled):
    """An example is ``[source, target]``. ``languages``: none, or those of source and target.

    With ``both_ways`` each pair is learnt in both directions.
    """

    name = "pairs"

    def __init__(self, fields: Sequence[str], languages: Sequence[str] = (), both_ways: bool = False):
        if len(fields) != 2:
            raise DataError(f"A pair has two fields, not {list(fields)}; name source and target.")
        if len(languages) not in (0, 2) or (both_ways and not languages):
            raise DataError(f"A pair has two languages, not {list(languages)}; name source and target.")
        self._fields, self._languages, self._both_ways = tuple(fields), tuple(languages), both_ways

    def example(self, record: Any) -> Parsed:
        """``([source, target], reason, value)``."""
        given = [record.get(name) if isinstance(record, dict) else None for name in self._fields]
        texts = [text for text in given if isinstance(text, str)]
        if len(texts) < 2:
            return None, "no_pair", names_of(record)
        empty = [name for name, text in zip(self._fields, texts, strict=True) if not text.strip()]
        if empty:
            return None, "empty", empty[0]
        if not spells_utf8(*texts):
            return None, "invalid_encoding", "lone surrogate"
        return texts, None, None

    def texts(self, example: Any) -> Sequence[str]:
        """Source and target."""
        return [text for pair in self._ways(*example) for text in pair]

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """One document each, or one for each direction."""
        ways = [self._ways(source, target) for source, target in examples]
        ids = iter(tokenizer.encode_batch([text for pairs in ways for pair in pairs for text in pair]))
        return [[joined(tokenizer, next(ids), next(ids)) for _ in pairs] for pairs in ways]

    def _ways(self, source: str, target: str) -> list[tuple[str, str]]:
        if not self._languages:
            return [(source, target)]
        first, second = self._languages
        ways = [(to_language(source, second), target)]
        return [*ways, (to_language(target, first), source)] if self._both_ways else ways


def joined(tokenizer: Tokenizer, source: list[int], target: list[int]) -> Made:
    """The document of one pair."""
    end = [tokenizer.eos_id]
    return Made(source + end + target + end, [len(source) + 1, len(source) + len(target) + 2])


def to_language(source: str, language: str) -> str:
    """The source with the language that its target shall be in."""
    return f"{language}: {source}"
