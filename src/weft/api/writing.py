"""A loaded encoder-decoder: translations and summaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weft.api.abilities import tasks_of
from weft.api.able import Able
from weft.api.texts import at_least_one, check, each
from weft.engine.encdec import write
from weft.engine.search import Beams, Written
from weft.models.encdec import EncoderDecoder
from weft.tasks import Card, Scored
from weft.tasks import write as task
from weft.tokenizer import Tokenizer

_STEP = 16
"""Sources whose lengths differ by less have one limit of their answers, so that they are written together."""

BEAMS, SUMMARY = 4, 50
"""Beams, and tokens of a summary, unless asked for otherwise."""


@dataclass(frozen=True)
class Order:
    """Something to be written: the token ids of its source, how, and what its answers, best first, become."""

    source: list[int]
    how: Beams
    finished: Callable[[Sequence[Written]], Scored]


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
        beams: int = BEAMS,
        max_length: int | None = None,
    ) -> Any:
        """See :class:`Able`."""
        if "translate" not in self.tasks:
            self.refuse("translate")
        at_least_one(alternatives=alternatives, beams=beams, max_length=max_length)
        how: dict[str, Any] = {"alternatives": alternatives, "glossary": glossary, "beams": beams}
        how |= {"target_language": target_language, "max_length": max_length}
        return each(text, lambda texts: self._done([self.translation(one, **how) for one in texts]))

    def summarize(self, text: str | Sequence[str], max_length: int = SUMMARY, *, beams: int = BEAMS) -> Any:
        """See :class:`Able`."""
        if "summarize" not in self.tasks:
            self.refuse("summarize")
        at_least_one(max_length=max_length, beams=beams)
        return each(text, lambda texts: self.written(list(texts), max_length, beams, 1))

    def written(
        self, sources: Sequence[str], max_length: int | None, beams: int, alternatives: int
    ) -> list[Scored]:
        """What the model writes for each source, as it was taught to be asked."""
        check(sources)
        return self._done([self._order(one, max_length, beams, alternatives) for one in sources])

    def order(self, name: str, text: str, settings: Mapping[str, Any]) -> Order:
        """What one of :attr:`tasks` asks the model to write, with the settings of its call.

        UsageError for what the call refuses.
        """
        check([text])
        return self.translation(text, **settings) if name == "translate" else self.summary(text, **settings)

    def summary(self, text: str, max_length: int = SUMMARY, *, beams: int = BEAMS) -> Order:
        """The order of :meth:`summarize`."""
        at_least_one(max_length=max_length, beams=beams)
        return self._order(text, max_length, beams, 1)

    def translation(
        self,
        text: str,
        target_language: str | None = None,
        *,
        alternatives: int = 1,
        glossary: Mapping[str, str] | None = None,
        beams: int = BEAMS,
        max_length: int | None = None,
    ) -> Order:
        """The order of :meth:`translate`."""
        at_least_one(alternatives=alternatives, beams=beams, max_length=max_length)
        count = max(alternatives, beams if glossary else 1)
        (source,) = task.sources(self.card, [text], target_language)
        order = self._order(source, max_length, max(beams, count), count)

        def finished(found: Sequence[Written]) -> Scored:
            scored = order.finished(found)
            return _fewer(task.with_terms(scored, text, glossary) if glossary else scored, alternatives - 1)

        return replace(order, finished=finished)

    def _order(self, source: str, max_length: int | None, beams: int, alternatives: int) -> Order:
        (ids,) = task.encode(self.tokenizer, [source])
        # A limit of its own for each source: an answer must not depend on what is asked beside it.
        limit = max_length or 2 * _STEP * math.ceil(len(ids) / _STEP) + 16
        return Order(ids, Beams(limit, beams, alternatives=alternatives), self._decoded)

    def _decoded(self, found: Sequence[Written]) -> Scored:
        answers = [(one.tokens, one.score, one.ended) for one in found]
        return task.decode(self.tokenizer, answers, self.card.usual)

    def _done(self, orders: Sequence[Order]) -> list[Scored]:
        """All of them, those of like settings together."""
        groups: dict[Beams, list[int]] = {}
        for place, order in enumerate(orders):
            groups.setdefault(order.how, []).append(place)
        found: dict[int, Scored] = {}
        end = self.tokenizer.eos_id
        for how, places in groups.items():
            answers = write(self.model, [orders[place].source for place in places], end, end, how)
            for place, best in zip(places, answers, strict=True):
                found[place] = orders[place].finished(best)
        return [found[place] for place in range(len(orders))]


def _fewer(one: Scored, alternatives: int) -> Scored:
    kept = one.alternatives[: max(alternatives, 0)]
    return Scored(one, one.score, alternatives=kept, confident=one.confident)
