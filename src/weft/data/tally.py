"""Documents, bytes and tokens by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

OTHER = "(other)"
_LIMIT = 20_000


@dataclass(frozen=True)
class Count:
    """What belongs to one name."""

    documents: int
    bytes: int
    tokens: int = 0


class Tally:
    """Adds up columns by name, in memory for some ten thousand names.

    Where there are more, the smallest are added up under ``(other)``: sums stay right, and so do the
    counts of large names unless they came late.
    """

    def __init__(self) -> None:
        self._documents: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    def add(self, names: Any, sizes: Any, tokens: Any = None) -> None:
        """Count a column of names, null for unknown, with the bytes and the tokens beside it."""
        table = pa.table({"name": names, "size": sizes, "tokens": sizes if tokens is None else tokens})
        sums = table.group_by("name").aggregate([([], "count_all"), ("size", "sum"), ("tokens", "sum")])
        for row in sums.to_pylist():
            name = row["name"] or "unknown"
            self._documents[name] += row["count_all"]
            self._bytes[name] += row["size_sum"] or 0
            if tokens is not None:
                self._tokens[name] += row["tokens_sum"] or 0
        if len(self._documents) > _LIMIT:
            self._fold()

    def counts(self) -> dict[str, Count]:
        """The names with most bytes first, ``(other)`` last."""
        order = sorted(self._documents, key=lambda name: (name == OTHER, -self._bytes[name], name))
        return {name: Count(self._documents[name], self._bytes[name], self._tokens[name]) for name in order}

    def _fold(self) -> None:
        smallest = list(self.counts())[_LIMIT // 2 :]
        for counter in (self._documents, self._bytes, self._tokens):
            rest = sum(counter.pop(name, 0) for name in smallest)
            counter[OTHER] += rest
