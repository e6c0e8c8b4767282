"""Questions about a text whose answer is a span of it, or that the text does not answer.

A document is: start, question, end of text, a window of the context. A context longer than a window is cut
into windows that overlap, each a document of its own; one without the answer says so, by its first token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.core.errors import DataError
from weft.data.batch import IGNORED
from weft.data.forms.base import Made, Parsed, Unlabelled, names_of, spells_utf8
from weft.data.forms.offsets import Placed, placed, start_ids
from weft.tokenizer import Tokenizer

START, END = 1, 2
"""Bits of a label: the answer begins, and ends, at this token. A label of 0 is a place where it could."""


@dataclass(frozen=True)
class Asked:
    """A question, its context, and the characters of the answer [start, stop); None: not in the context."""

    question: str
    context: str
    answer: tuple[int, int] | None


class Span(Unlabelled):
    """An example is an :class:`Asked`. ``window``: tokens of a document; 0 never cuts a context."""

    name = "span"

    def __init__(self, window: int = 0):
        self._window = window

    def example(self, record: Any) -> Parsed:
        """From ``{"context", "question", "answers": [{"text", "start"}]}`` or the columns of SQuAD."""
        texts = [record.get(name) if isinstance(record, dict) else None for name in ("question", "context")]
        question, context = texts
        if not isinstance(question, str) or not isinstance(context, str):
            return None, "no_question", names_of(record)
        if not question.strip() or not context.strip():
            return None, "empty", "question" if not question.strip() else "context"
        if not spells_utf8(question, context):
            return None, "invalid_encoding", "lone surrogate"
        answer = first_answer(record.get("answers"))
        if answer is None:
            return Asked(question, context, None), None, None
        text, start = answer
        if not text or start < 0 or context[start : start + len(text)] != text:
            return None, "answer_not_in_context", text[:80]
        return Asked(question, context, (start, start + len(text))), None, None

    def key(self, example: Any) -> Any:
        """Question and context."""
        return [example.question, example.context]

    def counts(self, example: Any) -> Counter[str]:
        """Nothing to count."""
        return Counter()

    def texts(self, example: Any) -> Sequence[str]:
        """Question and context."""
        return [example.question, example.context]

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """A document for each window."""
        made: list[list[Made] | DataError] = []
        for example, windows in zip(
            examples, ask(tokenizer, [(e.question, e.context) for e in examples], self._window), strict=True
        ):
            made.append([Made(one.ids, labels=_labels(one, example.answer)) for one in windows])
        return made


def ask(tokenizer: Tokenizer, asked: Sequence[tuple[str, str]], window: int = 0) -> list[list[Placed]]:
    """The documents of each (question, context); tokens that are no context have no characters."""
    start, end = start_ids(tokenizer), tokenizer.eos_id
    questions = tokenizer.encode_batch([question for question, _ in asked])
    found = []
    for question, one in zip(questions, placed(tokenizer, [context for _, context in asked]), strict=True):
        head = [*start, *question, end]
        ids, offsets = one.ids[len(start) :], one.offsets[len(start) :]
        room = len(ids) if not window else window - len(head)
        if room < 1:
            raise DataError(
                f"The question alone has {len(head)} tokens, and a document {window}; shorten it."
            )
        step = max(1, room - room // 3)
        firsts = [0, *range(step, max(step, len(ids) - room + step), step)] if len(ids) > room else [0]
        found.append(
            [Placed(head + ids[f : f + room], [(0, 0)] * len(head) + offsets[f : f + room]) for f in firsts]
        )
    return found


def first_answer(answers: Any) -> tuple[str, int] | None:
    """The first answer of a list of them, or of the columns ``text`` and ``answer_start``; None without."""
    if isinstance(answers, dict):
        texts, starts = answers.get("text") or [], answers.get("answer_start") or []
        return (str(texts[0]), int(starts[0])) if texts and starts else None
    if isinstance(answers, list) and answers and isinstance(answers[0], dict):
        first = answers[0]
        start = first.get("start", first.get("answer_start"))
        return str(first.get("text", "")), start if type(start) is int else -1
    return None


def _labels(one: Placed, answer: tuple[int, int] | None) -> list[int]:
    labels = [0 if stop > start else IGNORED for start, stop in one.offsets]
    inside = [] if answer is None else one.overlapping(*answer)
    whole = inside and answer and one.offsets[inside[0]][0] <= answer[0]
    if whole and answer and one.offsets[inside[-1]][1] >= answer[1]:
        labels[0] = 0
        labels[inside[0]] |= START
        labels[inside[-1]] |= END
    else:
        labels[0] = START | END
    return labels
