"""A piece of personal data in a text, and what finds such pieces."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

KINDS = (
    "key",
    "url_credentials",
    "resident_id",
    "iban",
    "bank_card",
    "us_ssn",
    "email",
    "mac",
    "ip",
    "phone",
    "passport",
    "plate",
    "address",
)
"""The kinds that the patterns know, the more specific first: of two equal spans the earlier kind stays."""

_ENCLOSING = ("key", "url_credentials")
"""Kinds that win over longer spans: ``user:word@host.org`` looks like an address from its middle on."""


class Span(NamedTuple):
    """Characters ``[start, end)`` of the text with number ``document``, which read ``text``."""

    document: int
    start: int
    end: int
    kind: str
    text: str


class Finder(Protocol):
    """Finds personal data: our patterns, a recogniser of names, another library.

    ``kinds`` are the kinds that it can give. ``find`` gives spans of the texts [N] in any order; spans
    may overlap. It must be picklable, because the engine may run it in other processes.
    """

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def find(self, texts: Sequence[str]) -> list[Span]: ...


def resolve(spans: Iterable[Span]) -> list[Span]:
    """Spans in reading order that no longer overlap: credentials win, then the longest, then KINDS."""
    kept: dict[int, list[tuple[int, int, Span]]] = defaultdict(list)
    for span in sorted(set(spans), key=_precedence):
        row = kept[span.document]
        place = bisect.bisect(row, (span.start, span.end))
        after_last = place == 0 or row[place - 1][1] <= span.start
        if after_last and (place == len(row) or row[place][0] >= span.end):
            row.insert(place, (span.start, span.end, span))
    return [span for _, row in sorted(kept.items()) for _, _, span in row]


def _precedence(span: Span) -> tuple[bool, int, int, str, int, int]:
    rank = KINDS.index(span.kind) if span.kind in KINDS else len(KINDS)
    return (
        span.kind not in _ENCLOSING,
        span.start - span.end,
        rank,
        span.kind,
        span.document,
        span.start,
    )
