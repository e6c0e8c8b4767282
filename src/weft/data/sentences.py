"""Where the sentences and the clauses of Chinese and English texts lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

Place = tuple[int, int]
"""Characters [start, end) of a text, without the space around them."""

Unit = Literal["sentence", "clause"]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
_CLOSING = "[\"'”’」』）)】》\\]]*"
# A full stop also stands in numbers and addresses, so it ends a sentence only before a space or between Han;
# the Latin question and exclamation marks also before Han, as much Chinese is typed with them.
_END = re.compile(
    f"[。！？｡][。！？!?｡]*{_CLOSING}|[!?]+{_CLOSING}(?=[\\s{_HAN}]|$)|\\.[.!?]*{_CLOSING}(?=\\s|$)"
    f"|(?<=[{_HAN}）)”’》】])\\.{_CLOSING}(?=[{_HAN}])|\n"
)
_ABBREVIATION = re.compile(
    r"\b(?:mr|mrs|ms|dr|prof|st|sen|rep|gov|gen|col|lt|sgt|rev|jr|sr|vs|e\.g|i\.e|inc|ltd|co|corp"
    r"|[a-z](?:\.[a-z])*)\.$",
    re.IGNORECASE,
)
_LONGEST_ABBREVIATION = 12
# Not the mark of enumerations: what they list belongs together. A Latin comma also stands in numbers.
_PAUSE = re.compile(f"[，；：]{_CLOSING}|[,;:]{_CLOSING}(?=[\\s{_HAN}])")


def sentences(text: str) -> list[Place]:
    """The sentences in order; a line end ends one too.

    After a title, an initial or another common abbreviation the sentence goes on.
    """
    ends, start = [], 0
    for end in _END.finditer(text):
        before = text[max(start, end.end() - _LONGEST_ABBREVIATION) : end.end()]
        if end.group() == "." and _ABBREVIATION.search(before):
            continue
        start = end.end()
        ends.append(start)
    return list(_between(text, 0, [*ends, len(text)]))


def clauses(text: str) -> list[Place]:
    """The sentences, cut behind their commas, semicolons and colons."""
    found: list[Place] = []
    for start, stop in sentences(text):
        ends = [pause.end() for pause in _PAUSE.finditer(text, start, stop)]
        found += _between(text, start, [*ends, stop])
    return found


UNITS: dict[Unit, Callable[[str], list[Place]]] = {"sentence": sentences, "clause": clauses}
"""What a summary can be made of."""


def _between(text: str, start: int, ends: list[int]) -> Iterator[Place]:
    for end in ends:
        piece = text[start:end]
        if piece.strip():
            yield start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        start = end
