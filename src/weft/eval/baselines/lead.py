"""Summaries without a model: the first sentences of a text, the first or the longest lines of a dialogue.

Lead-3 is the usual baseline for news (See et al. 2017, arXiv:1704.04368), longest-3 the strongest of those
that Gliwa et al. 2019 (SAMSum, arXiv:1911.12237) tried on dialogues.
"""

from __future__ import annotations

import re

from weft.core.errors import DataError, UsageError

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
_CLOSING = "[\"'”’」』）)】》\\]]*"
# A full stop also stands in numbers and addresses, so it ends a sentence only before a space; the Latin
# question and exclamation marks also before Han, as much Chinese is typed with them.
_END = re.compile(
    f"[。！？｡][。！？!?｡]*{_CLOSING}|[!?]+{_CLOSING}(?=[\\s{_HAN}]|$)|\\.[.!?]*{_CLOSING}(?=\\s|$)|\n"
)
_ABBREVIATION = re.compile(
    r"\b(?:mr|mrs|ms|dr|prof|st|sen|rep|gov|gen|col|lt|sgt|rev|jr|sr|vs|e\.g|i\.e|inc|ltd|co|corp"
    r"|[a-z](?:\.[a-z])*)\.$",
    re.IGNORECASE,
)
_LONGEST_ABBREVIATION = 12


def sentences(text: str) -> list[str]:
    """The sentences of Chinese and English ``text`` in order; a line end ends one too.

    After a title, an initial or another common abbreviation the sentence goes on.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        before = text[max(start, end.end() - _LONGEST_ABBREVIATION) : end.end()]
        if end.group() == "." and _ABBREVIATION.search(before):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def lead(text: str, count: int = 3) -> str:
    """The first ``count`` sentences, one a line. DataError for a blank text, UsageError for no count."""
    return _joined(sentences(text), count)


def first_lines(dialogue: str, count: int = 3) -> str:
    """The first ``count`` lines that are not blank. Errors as :func:`lead`."""
    return _joined(_lines(dialogue), count)


def longest_lines(dialogue: str, count: int = 3) -> str:
    """The ``count`` longest lines by characters, the longest first, as in the paper; equals in their order.

    Errors as :func:`lead`.
    """
    return _joined(sorted(_lines(dialogue), key=len, reverse=True), count)


def _lines(dialogue: str) -> list[str]:
    return [line.strip() for line in dialogue.splitlines() if line.strip()]


def _joined(pieces: list[str], count: int) -> str:
    if count < 1:
        raise UsageError(f"A summary of {count} sentences says nothing; ask for 1 or more.")
    if not pieces:
        raise DataError("A blank text has no first sentence; leave it out of the evaluation.")
    return "\n".join(pieces[:count])
