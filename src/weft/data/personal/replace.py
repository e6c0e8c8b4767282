"""What is done with what was found: tags, fakes, dropped documents, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from weft.data.config import PersonalConfig, Policy
from weft.data.personal.fakes import Fakes
from weft.data.personal.span import KINDS, Finder, Span, resolve


@dataclass(frozen=True)
class Deidentified:
    """``texts`` [N] without personal data, ``counts`` [N] of spans by kind, and in ``dropped`` [N] the kind
    for which the document must go, or None. A text that is to go is masked as well: it stays on disk."""

    texts: list[str]
    counts: list[Counter[str]]
    dropped: list[str | None]


class Deidentifier:
    """Finders and policies together; picklable, because the engine may run it in other processes."""

    def __init__(self, config: PersonalConfig, finders: Sequence[Finder], secret: bytes) -> None:
        self._config = config
        self._finders = tuple(finders)
        self._fakes = Fakes(secret)
        found = {kind for finder in self._finders for kind in finder.kinds}
        self.kinds = tuple(sorted(found, key=lambda kind: (KINDS.index(kind) if kind in KINDS else 99, kind)))
        """Every kind that can be counted, in a fixed order."""

    def apply(self, texts: Sequence[str]) -> Deidentified:
        """Find and replace in texts [N]."""
        result = Deidentified(list(texts), [Counter() for _ in texts], [None] * len(texts))
        spans = resolve(span for finder in self._finders for span in finder.find(texts))
        for group in _by_document(spans):
            number = group[0].document
            result.counts[number].update(span.kind for span in group)
            result.texts[number] = self._rewritten(texts[number], group)
            drops = [span.kind for span in group if self._policy(span.kind) == "drop"]
            result.dropped[number] = drops[0] if drops else None
        return result

    def _rewritten(self, text: str, spans: Sequence[Span]) -> str:
        pieces, end = [], 0
        for span in spans:
            pieces += [text[end : span.start], self._instead(span)]
            end = span.end
        return "".join([*pieces, text[end:]])

    def _instead(self, span: Span) -> str:
        policy = self._policy(span.kind)
        if policy == "keep":
            return span.text
        if policy == "replace":
            return self._fakes.fake(span.kind, span.text)
        return f"<{span.kind.upper()}>"

    def _policy(self, kind: str) -> Policy:
        policy: Policy = getattr(self._config, kind) if kind in KINDS else self._config.other
        return policy


def _by_document(spans: Sequence[Span]) -> list[list[Span]]:
    groups: list[list[Span]] = []
    for span in spans:
        if not groups or groups[-1][0].document != span.document:
            groups.append([])
        groups[-1].append(span)
    return groups
