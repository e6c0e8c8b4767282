"""A loaded encoder-decoder: translations and summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.api.able import Able
from weft.api.reading import _check, _each
from weft.core.errors import UsageError
from weft.engine.encdec import Beams, write
from weft.models.encdec import EncoderDecoder
from weft.tasks import Card, Scored
from weft.tasks import write as task
from weft.tokenizer import Tokenizer


class WritingModel(Able):
    """An encoder-decoder with its tokenizer and what it was trained for. One thread may use it."""

    def __init__(self, model: EncoderDecoder, tokenizer: Tokenizer, card: Card):
        self.model, self.tokenizer, self.card = model.eval(), tokenizer, card
        self.architecture = model.config.architecture

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
        if self.card.task != "translation":
            self.refuse("translate")
        count = max(alternatives, beams if glossary else 1)

        def each(texts: Sequence[str]) -> list[Scored]:
            asked = task.sources(self.card, texts, target_language)
            found = self.written(asked, max_length, max(beams, count), count)
            if glossary:
                found = [task.with_terms(one, text, glossary) for one, text in zip(found, texts, strict=True)]
            return [_fewer(one, alternatives - 1) for one in found]

        return _each(text, each)

    def summarize(self, text: str | Sequence[str], max_length: int = 50, *, beams: int = 4) -> Any:
        """See :class:`Able`."""
        if self.card.task != "summary":
            self.refuse("summarize")
        if max_length < 1:
            raise UsageError(f"max_length = {max_length} must be at least 1.")
        return _each(text, lambda texts: self.written(list(texts), max_length, beams, 1))

    def written(
        self, sources: Sequence[str], max_length: int | None, beams: int, alternatives: int
    ) -> list[Scored]:
        """What the model writes for each source, as it was taught to be asked."""
        _check(sources)
        ids = task.encode(self.tokenizer, sources)
        most = max_length or 2 * max(map(len, ids)) + 16
        how = Beams(max_tokens=most, beams=beams, alternatives=alternatives)
        end = self.tokenizer.eos_id
        return [
            task.decode(self.tokenizer, [(one.tokens, one.score, one.ended) for one in best], self.card.usual)
            for best in write(self.model, ids, end, end, how)
        ]


def _fewer(one: Scored, alternatives: int) -> Scored:
    kept = one.alternatives[: max(alternatives, 0)]
    return Scored(one, one.score, alternatives=kept, confident=one.confident)
