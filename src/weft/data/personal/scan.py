"""Finds personal data by patterns and checksums, in many texts at once or plainly in one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weft.data.config import PersonalConfig
from weft.data.personal import addresses, identity, keys, network, phones
from weft.data.personal.fold import Folded, fold
from weft.data.personal.marks import Marks
from weft.data.personal.rule import Rule
from weft.data.personal.span import KINDS, Span, resolve

_CHUNK = 1 << 18
"""Characters looked at together: the arrays stay in the cache."""


class PatternFinder:
    """The rules of this folder as a Finder.

    The definition is ``find_plainly``: each rule is tried at every character. ``find`` gives the same
    and tries a rule only where whole-array arithmetic left it possible.
    """

    kinds = KINDS

    def __init__(self, config: PersonalConfig | None = None) -> None:
        config = config or PersonalConfig()
        ips = network.PRIVATE_RULES if config.private_ip else network.PUBLIC_RULES
        old = (identity.OLD_RESIDENT_RULE,) if config.old_resident_id else ()
        self._rules: tuple[Rule, ...] = (
            *keys.RULES,
            *network.RULES,
            *ips,
            *identity.RULES,
            *old,
            *phones.RULES,
            *addresses.RULES,
        )

    def find(self, texts: Sequence[str]) -> list[Span]:
        """Spans of the texts [N] in reading order, none overlapping another."""
        spans: list[Span] = []
        for first, chunk in _chunks(texts):
            spans += resolve(self._find(first, chunk))
        return spans

    def find_plainly(self, texts: Sequence[str]) -> list[Span]:
        """The same, character by character."""
        spans = []
        for number, text in enumerate(texts):
            folded = fold(text)
            for rule in self._rules:
                match = rule.pattern.search(folded)
                while match:
                    end = rule.check(match)
                    if end:
                        start = match.start()
                        spans.append(Span(number, start, end, rule.kind, text[start:end]))
                    match = rule.pattern.search(folded, match.start() + 1)
        return resolve(spans)

    def _find(self, first: int, texts: Sequence[str]) -> Iterator[Span]:
        folded = Folded(texts)
        marks = Marks(folded)
        ready: dict[int, str] = {}
        for rule in self._rules:
            starts = rule.starts(marks)
            owners = np.searchsorted(folded.begins, starts, side="right") - 1
            offsets = starts - folded.begins[owners]
            for number, start in zip(owners.tolist(), offsets.tolist(), strict=True):
                text = ready.get(number)
                if text is None:
                    text = ready[number] = folded.text(number)
                match = rule.pattern.match(text, start)
                end = rule.check(match) if match else 0
                if end:
                    yield Span(first + number, start, end, rule.kind, texts[number][start:end])


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    first = size = 0
    for number, text in enumerate(texts):
        if size and size + len(text) > _CHUNK:
            yield first, texts[first:number]
            first, size = number, 0
        size += len(text)
    if first < len(texts):
        yield first, texts[first:]
