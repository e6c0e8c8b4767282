"""Summaries without a model: the first sentences or words of a text, first or longest lines of a dialogue.

Lead-3 is the usual baseline for news (See et al. 2017, arXiv:1704.04368), longest-3 the strongest of those
that Gliwa et al. 2019 (SAMSum, arXiv:1911.12237) tried on dialogues.
"""

from __future__ import annotations

from weft.core.errors import DataError, UsageError
from weft.data import sentences as places
from weft.data.terms import word_places


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` (:func:`weft.data.sentences.sentences`)."""
    return [text[start:end] for start, end in places.sentences(text)]


def lead(text: str, count: int = 3) -> str:
    """The first ``count`` sentences, one a line. DataError for a blank text, UsageError for no count."""
    return _joined(sentences(text), count)


def first_words(text: str, count: int = 50) -> str:
    """The text up to the end of its word number ``count``; a Han character is a word.

    Where sentences are long and summaries short, as titles are, that is closer than whole sentences. Errors
    as :func:`lead`.
    """
    ends = [end for _, end in word_places(text)]
    return text[: ends[min(count, len(ends)) - 1]].strip() if count > 0 and ends else _joined([], count)


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
