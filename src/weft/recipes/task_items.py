"""Labelled files as items of an evaluation: every row of them, duplicates too, and none left out in silence.

Files are read as ``weft data supervised`` reads them, by the same settings. A row that a model cannot be
asked about but that has a gold answer stays as an item that is wrong; rows without one are listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.core.errors import DataError
from weft.data.forms.base import names_of, spells_utf8, text_of
from weft.data.supervised_config import SupervisedConfig, named, raw_records
from weft.eval.task_scores import Question

Files = Sequence[str | Path]

ELSEWHERE = "answer_not_in_context"
"""The reason that the reader of questions gives for an answer; it is a right one all the same."""
_LONGEST = 200
"""Characters of a value that readers report whole."""


@dataclass(frozen=True)
class Item:
    """``given``: what the model is asked, None where it cannot be; ``gold``: the right answer.

    ``given`` is a text, ``(text, predicate)`` of spans, ``(question, context)``, or a source. ``key``: what
    makes two items the same. ``where`` and ``reason`` (why it cannot be asked) are for reports.
    """

    where: str
    given: Any
    gold: Any
    key: str
    reason: str | None = None


@dataclass
class Read:
    """``items``; ``dropped``: (where, reason, value) of rows without a gold answer that can be used."""

    items: list[Item] = field(default_factory=list)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """How many rows were dropped for each reason."""
        return dict(Counter(reason for _, reason, _ in self.dropped))


Parsed = tuple[Any, Any, str | None]
"""``(given, gold, reason)``; without a gold answer ``gold`` is None and the reason says why."""


def read_items(files: Files, settings: SupervisedConfig) -> Read:
    """Every row of ``files``. DataError where none has a gold answer, with what was found instead."""
    read = Read()
    parse = _PARSERS[settings.form]
    elsewhere: dict[str, tuple[str, ...]] = {}
    for where, record, reason, value in raw_records(files, settings):
        if reason is None:
            given, gold, reason = parse(named(record, settings), settings)
            if gold is not None:
                if isinstance(gold, Question):
                    gold = Question(gold.question, gold.answers + elsewhere.pop(where, ()))
                read.items.append(Item(where, given, gold, _key(given), reason))
                continue
            value = names_of(record)
        elif settings.form == "span" and reason == ELSEWHERE and value and len(value) < _LONGEST:
            # It comes before its question, which official scripts compare with it too.
            question = where.rpartition(".")[0]
            elsewhere[question] = (*elsewhere.get(question, ()), value)
            continue
        read.dropped.append((where, reason or "no_gold", value or ""))
    # A question all of whose answers are elsewhere is not read, and has answers nevertheless.
    for where, texts in elsewhere.items():
        read.items.append(Item(where, None, Question("", texts), "", ELSEWHERE))
    if not read.items:
        raise DataError(_nothing(files, read))
    return read


def _nothing(files: Files, read: Read) -> str:
    listed = ", ".join(map(str, files))
    if not read.dropped:
        return f"There is no row in {listed}; give files with labelled rows."
    where, reason, value = read.dropped[0]
    return (
        f"No row of {listed} has a gold answer; {len(read.dropped):,} were read, and the first, {where}, "
        f"says {reason} ({value[:80]}): give files with answers, or the right --reader and --fields."
    )


def _key(given: Any) -> str:
    """As JSON, however it is spaced; what cannot be asked equals nothing."""
    return "" if given is None else " ".join(json.dumps(given, ensure_ascii=False).split())


def _label(record: Any, settings: SupervisedConfig) -> Parsed:
    text_field, label_field = settings.fields or ("text", "label")
    text, label = text_of(record, text_field), text_of(record, label_field)
    if label is None or not label.strip():
        return None, None, "no_label"
    reason = _unreadable(text)
    return None if reason else text, label.strip(), reason


def _spans(record: Any, settings: SupervisedConfig) -> Parsed:
    listed = record.get("spans", record.get("roles")) if isinstance(record, dict) else None
    if not isinstance(listed, list):
        return None, None, "no_spans"
    text = record.get("text")
    spans = [_span(item) for item in listed]
    predicate = record.get("predicate")
    marked = None if predicate is None else _span({"label": "", **predicate})
    if None in spans or (predicate is not None and marked is None):
        return None, None, "bad_span"
    gold = tuple(sorted(span for span in spans if span is not None))
    reason = _unreadable(text)
    if reason is not None:
        return None, gold, reason
    if any(stop > len(text) for _, stop, _ in gold):
        return None, gold, "span_outside_text"
    return (text, marked and marked[:2]), gold, None


def _question(record: Any, settings: SupervisedConfig) -> Parsed:
    answers = record.get("answers") if isinstance(record, dict) else None
    if isinstance(answers, dict):
        texts = answers.get("text")
    elif isinstance(answers, list):
        texts = [item.get("text") if isinstance(item, dict) else item for item in answers]
    else:
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None, None, "no_answers"
    question, context = record.get("question"), record.get("context")
    gold = Question(question if isinstance(question, str) else "", tuple(texts))
    reason = _unreadable(question) or _unreadable(context)
    return None if reason else (question, context), gold, reason


def _pair(record: Any, settings: SupervisedConfig) -> Parsed:
    source_field, target_field = settings.fields or ("source", "target")
    source, target = (
        record.get(name) if isinstance(record, dict) else None for name in (source_field, target_field)
    )
    if _unreadable(target) is not None:
        return None, None, "no_target"
    reason = _unreadable(source)
    return None if reason else source, target, reason


def _unreadable(text: Any) -> str | None:
    if not isinstance(text, str):
        return "no_text"
    if not text.strip():
        return "empty"
    return None if spells_utf8(text) else "invalid_encoding"


def _span(item: Any) -> tuple[int, int, str] | None:
    if not isinstance(item, dict):
        return None
    start, stop, label = (item.get(name) for name in ("start", "end", "label"))
    if type(start) is not int or type(stop) is not int or not isinstance(label, str):
        return None
    return (start, stop, label) if 0 <= start < stop else None


_PARSERS: dict[str, Callable[[Any, SupervisedConfig], Parsed]] = {
    "classify": _label,
    "tag": _spans,
    "span": _question,
    "extractive": _pair,
    "pairs": _pair,
}
