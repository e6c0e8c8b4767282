"""Named entities from memory: the forms of the training data, found again by longest match.

It knows no context, so what a model gains over it is what the model reads. Each form gets the label it had
most often; the like baseline of CoNLL 2003 (Tjong Kim Sang and De Meulder 2003) leaves ambiguous forms out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from weft.core.errors import DataError
from weft.eval.metrics.spans import Span


class EntityMemory:
    """A tagger that only remembers."""

    def __init__(self, texts: Sequence[str], entities: Sequence[Sequence[Span]]) -> None:
        """Remember the ``entities`` of each text, their borders in characters.

        Raises DataError unless every text has a sequence of them and there is at least one text, and for an
        entity outside its text.
        """
        if not texts or len(texts) != len(entities):
            raise DataError(f"{len(texts)} texts have {len(entities)} lists of entities; give one each.")
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for text, spans in zip(texts, entities, strict=True):
            for start, stop, label in spans:
                if not 0 <= start < stop <= len(text):
                    raise DataError(
                        f"The entity {start} to {stop} of {label!r} lies outside its text of {len(text)} "
                        "characters; correct the data."
                    )
                counts[text[start:stop]][label] += 1
        # Of equally frequent labels the first in order, so that the order of the data does not matter.
        self._label = {
            form: min(found, key=lambda name: (-found[name], name)) for form, found in counts.items()
        }
        lengths: dict[str, set[int]] = defaultdict(set)
        for form in self._label:
            lengths[form[0]].add(len(form))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def find(self, text: str) -> list[Span]:
        """Entities of ``text`` from left to right, the longest form at each place, none over another.

        A form that begins or ends with a letter or digit of a script with spaces is found only as whole
        words: "Iran" does not stand in "Iranian".
        """
        found: list[Span] = []
        at = 0
        while at < len(text):
            stop = self._longest(text, at)
            if stop > at:
                found.append((at, stop, self._label[text[at:stop]]))
            at = max(stop, at + 1)
        return found

    def _longest(self, text: str, at: int) -> int:
        """Where the longest form that begins at ``at`` stops, or ``at``."""
        for length in self._lengths.get(text[at], ()):
            stop = at + length
            if text[at:stop] in self._label and not _in_word(text, at) and not _in_word(text, stop):
                return stop
        return at


def _in_word(text: str, at: int) -> bool:
    """Whether a word of a script with spaces stands on both sides of the border ``at``."""
    return 0 < at < len(text) and _spaced(text[at - 1]) and _spaced(text[at])


def _spaced(character: str) -> bool:
    """A letter or digit below the blocks of Chinese and Japanese."""
    return character.isalnum() and character < "\u2e80"
