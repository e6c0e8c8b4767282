"""The terms of a text for retrieval and simple classifiers: English words and Chinese bigrams.

Words are lowercased and lose their plural ending by the S-stemmer (Harman 1991). Chinese is written
without spaces; pairs of neighbouring characters retrieve as well as segmented words (Nie et al. 2000).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
_PIECE = re.compile(f"[{_HAN}]|\\d+(?:[.,]\\d+)*|[^\\W\\d_{_HAN}]+")
_RUN = re.compile(f"(?P<han>[{_HAN}]+)|[^\\W_{_HAN}]+")


def terms(text: str, stemmer: Callable[[str], str] | None = None) -> list[str]:
    """All terms of ``text`` in order, with repetitions; compatibility forms (NFKC) are one term.

    ``stemmer`` is what a lowercase word goes through, by default :func:`stem`.
    """
    stemmer = stemmer or stem
    found: list[str] = []
    for run in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
        word = run.group()
        if run["han"] is None:
            found.append(stemmer(word))
        elif len(word) == 1:
            found.append(word)
        else:
            found += [word[at : at + 2] for at in range(len(word) - 1)]
    return found


def pieces(text: str) -> list[str]:
    """Han characters, Latin words in lower case and numbers of ``text`` (NFKC); no punctuation."""
    return _PIECE.findall(unicodedata.normalize("NFKC", text).lower())


def word_places(text: str) -> list[tuple[int, int]]:
    """Where the words of ``text`` lie, as :func:`pieces` finds them: characters [start, end)."""
    return [piece.span() for piece in _PIECE.finditer(text)]


def stem(word: str) -> str:
    """``word`` (lowercase) without a plural ending; the first rule that fits decides."""
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    return word[:-1] if word[-2] not in "us" else word
