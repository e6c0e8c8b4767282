"""A loaded encoder-decoder: translations and summaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from weft.api.abilities import tasks_of
from weft.api.able import Able
from weft.api.texts import check, each
from weft.core.errors import UsageError
from weft.engine.encdec import Beams, write
from weft.models.encdec import EncoderDecoder
from weft.tasks import Card, Scored
from weft.tasks import write as task
from weft.tokenizer import Tokenizer

_STEP = 16
"""Sources whose lengths differ by less have one limit of their answers, so that they are written together."""


class WritingModel(Able):
    """An encoder-decoder with its tokenizer and what it was trained for. One thread may use it."""

    def __init__(self, model: EncoderDecoder, tokenizer: Tokenizer, card: Card):
        self.model, self.tokenizer, self.card = model.eval(), tokenizer, card
        self.architecture = model.config.architecture
        self.tasks = tasks_of(model.config, card)

    def translate(
        self,
        text: str | Sequence[str],
        target_language: str | None = None,
        *,
        alternatives: int = 1,
        glossary: Mapping[str, str] | None = None,
        beams: int = 4,
        max_length: int | None = None,
    ) -> Any:
        """See :class:`Able`."""
        if "translate" not in self.tasks:
            self.refuse("translate")
        _at_least_one(alternatives=alternatives, beams=beams, max_length=max_length)
        count = max(alternatives, beams if glossary else 1)

        def translated(texts: Sequence[str]) -> list[Scored]:
            asked = task.sources(self.card, texts, target_language)
            found = self.written(asked, max_length, max(beams, count), count)
            if glossary:
                found = [task.with_terms(one, text, glossary) for one, text in zip(found, texts, strict=True)]
            return [_fewer(one, alternatives - 1) for one in found]

        return each(text, translated)

    def summarize(self, text: str | Sequence[str], max_length: int = 50, *, beams: int = 4) -> Any:
        """See :class:`Able`."""
        if "summarize" not in self.tasks:
            self.refuse("summarize")
        _at_least_one(max_length=max_length, beams=beams)
        return each(text, lambda texts: self.written(list(texts), max_length, beams, 1))

    def written(
        self, sources: Sequence[str], max_length: int | None, beams: int, alternatives: int
    ) -> list[Scored]:
        """What the model writes for each source, as it was taught to be asked."""
        check(sources)
        ids = task.encode(self.tokenizer, sources)
        limits = [max_length or 2 * _STEP * math.ceil(len(one) / _STEP) + 16 for one in ids]
        found: dict[int, Scored] = {}
        # A limit of its own for each source: an answer must not depend on what is asked beside it.
        for limit in sorted(set(limits)):
            places = [place for place, own in enumerate(limits) if own == limit]
            how = Beams(max_tokens=limit, beams=beams, alternatives=alternatives)
            end = self.tokenizer.eos_id
            for place, best in zip(
                places, write(self.model, [ids[place] for place in places], end, end, how), strict=True
            ):
                answers = [(one.tokens, one.score, one.ended) for one in best]
                found[place] = task.decode(self.tokenizer, answers, self.card.usual)
        return [found[place] for place in range(len(ids))]


def _at_least_one(**settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value} must be at least 1.")


def _fewer(one: Scored, alternatives: int) -> Scored:
    kept = one.alternatives[: max(alternatives, 0)]
    return Scored(one, one.score, alternatives=kept, confident=one.confident)
