"""A text from a text: translation and summaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from weft.core.errors import UsageError
from weft.data.forms.pairs import to_language
from weft.tasks.card import Card
from weft.tasks.results import Scored
from weft.tokenizer import Tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Each source, closed by an end of text."""
    return [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]


def sources(card: Card, texts: Sequence[str], target: str | None) -> list[str]:
    """The texts as the model was taught to be asked for ``target``. UsageError for other languages."""
    if not card.languages:
        if target is not None:
            raise UsageError("This model was trained on pairs without languages; leave target_language out.")
        return list(texts)
    able = card.writes
    wanted = able[0] if target is None and len(able) == 1 else target
    if wanted is None:
        raise UsageError(f"Say target_language; this model writes {' and '.join(able)}.")
    if wanted not in able:
        raise UsageError(f"This model writes {' and '.join(able)}, not {wanted}; train one on such pairs.")
    return [to_language(text, wanted) for text in texts]


def decode(tokenizer: Tokenizer, found: Sequence[tuple[Sequence[int], float, bool]], usual: float) -> Scored:
    """The best of several ``(tokens, mean logarithm, came to its end)``; the others are its alternatives."""
    texts = [
        Scored(
            tokenizer.decode(tokens, skip_special=True).strip(),
            math.exp(min(score, 0.0)),
            confident=ended and math.exp(min(score, 0.0)) >= 0.5 * usual,
        )
        for tokens, score, ended in found
    ]
    best = texts[0]
    return Scored(best, best.score, alternatives=tuple(texts[1:]), confident=best.confident)


def with_terms(answer: Scored, source: str, glossary: Mapping[str, str]) -> Scored:
    """Of the answer and its alternatives the first that has most of the glossary's terms for this source.

    One that lacks any of them is not confident.
    """
    needed = [target for term, target in glossary.items() if term in source]
    if not needed:
        return answer
    ranked = [Scored(answer, answer.score, confident=answer.confident), *answer.alternatives]
    has = [sum(term in text for term in needed) for text in ranked]
    best = ranked.pop(has.index(max(has)))
    complete = max(has) == len(needed)
    return Scored(best, best.score, alternatives=tuple(ranked), confident=best.confident and complete)
