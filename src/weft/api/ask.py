"""A task by its name, as the command line and servers ask for it: plain values in, plain records out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.api.able import CALLS, Able
from weft.tasks import Scored, Span

Record = dict[str, Any]

SETTINGS = {
    "translate": ("target_language", "alternatives", "glossary", "beams", "max_length"),
    "summarize": ("max_length", "beams"),
    "answer": ("least_score",),
}
"""What else the call of a task takes."""


def ask(model: Able, task: str, items: Sequence[Record], settings: Mapping[str, Any]) -> list[Record]:
    """The record of each item, as JSON spells it.

    An item has ``text``; for roles ``predicate`` too, a word or its characters ``[start, end)``; for answers
    ``question`` and ``context``. ``settings`` are of :data:`SETTINGS`. Raises UsageError for what the model
    cannot do, and for inputs that it cannot read.
    """
    call = CALLS[task]
    if task not in model.tasks:
        model.refuse(call)
    given: Any = model
    if task == "answer":
        found = given.answers([(item["question"], item["context"]) for item in items], **settings)
    elif task == "roles":
        found = given.roles([(item["text"], _predicate(item["predicate"])) for item in items])
    else:
        found = getattr(model, call)([item["text"] for item in items], **settings)
    return [record_of(one) for one in found]


def record_of(result: Any) -> Record:
    """A label or text, a span, a list of spans or a vector as a record."""
    if isinstance(result, (Scored, Span)):
        return result.table()
    if isinstance(result, list):
        return {"spans": [span.table() for span in result]}
    return {"embedding": [float(value) for value in result]}


def _predicate(given: Any) -> str | tuple[int, int]:
    return given if isinstance(given, str) else (given[0], given[1])
