"""Texts with labelled spans: named entities, and the roles around a predicate.

Spans become one class a token: O outside, B-X at the first token of a span X, I-X in the rest of it
(Ramshaw and Marcus 1995). A predicate stands between the two markers of a turn, which no text can spell.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.core.errors import DataError
from weft.data.batch import IGNORED
from weft.data.forms.base import Made, Parsed, names_of, spells_utf8
from weft.data.forms.offsets import Placed, placed
from weft.tokenizer import Tokenizer
from weft.tokenizer.special import TURN_END, TURN_START

OUTSIDE = "O"


@dataclass(frozen=True)
class Tagged:
    """A text and its spans ``(start, stop, label)`` in characters; ``predicate``: the span asked about."""

    text: str
    spans: tuple[tuple[int, int, str], ...]
    predicate: tuple[int, int] | None = None


class Tag:
    """An example is a :class:`Tagged`. ``marked``: whether one that was encoded has a predicate."""

    name = "tag"

    def __init__(self, labels: Sequence[str] = ()):
        self.labels = tuple(labels)
        self.marked = False

    def example(self, record: Any) -> Parsed:
        """From ``{"text", "spans": [{"start", "end", "label"}]}``; roles have ``predicate`` and ``roles``."""
        text = record.get("text") if isinstance(record, dict) else None
        listed = record.get("spans", record.get("roles")) if isinstance(record, dict) else None
        if not isinstance(text, str) or not isinstance(listed, list):
            return None, "no_spans", names_of(record)
        if not text.strip():
            return None, "empty", "text"
        if not spells_utf8(text):
            return None, "invalid_encoding", "lone surrogate"
        spans = [_span(item) for item in listed]
        predicate = record.get("predicate")
        asked = {**predicate, "label": ""} if isinstance(predicate, dict) else predicate
        marked = None if predicate is None else _span(asked)
        for span in [*spans, *([marked] if predicate is not None else [])]:
            if span is None:
                return None, "bad_span", "a span needs start, end and label"
            if not 0 <= span[0] < span[1] <= len(text):
                return None, "span_outside_text", f"{span[0]} to {span[1]} of {len(text)} characters"
        if marked is not None and not text[marked[0] : marked[1]].strip():
            return None, "bad_span", "a predicate of nothing but space"
        known = sorted(span for span in spans if span is not None)
        if any(after[0] < before[1] for before, after in itertools.pairwise(known)):
            return None, "overlapping_spans", str(known)[:80]
        return Tagged(text, tuple(known), marked and marked[:2]), None, None

    def key(self, example: Any) -> Any:
        """The text, and the predicate in it."""
        return [example.text, example.predicate]

    def classes(self, example: Any) -> Sequence[str]:
        """The classes of tokens that its spans need."""
        return [f"{mark}-{label}" for _, _, label in example.spans for mark in "BI"]

    def counts(self, example: Any) -> Counter[str]:
        """Its spans."""
        return Counter(label for _, _, label in example.spans)

    def with_labels(self, labels: Sequence[str]) -> Tag:
        """The same, knowing the classes: O first."""
        return Tag([OUTSIDE, *(label for label in labels if label != OUTSIDE)])

    def texts(self, example: Any) -> Sequence[str]:
        """The text."""
        return [example.text]

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """One document each; a DataError where a token holds characters of two spans."""
        number = {label: n for n, label in enumerate(self.labels)}
        self.marked = self.marked or any(example.predicate is not None for example in examples)
        found = place(tokenizer, [(e.text, e.predicate) for e in examples])
        return [_labelled(one, example, number) for one, example in zip(found, examples, strict=True)]


def markers(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens before and after a predicate."""
    opened, closed = (tokenizer.token_id(name) for name in (TURN_START, TURN_END))
    return (
        tokenizer.eos_id if opened is None else opened,
        tokenizer.eos_id if closed is None else closed,
    )


def place(tokenizer: Tokenizer, asked: Sequence[tuple[str, tuple[int, int] | None]]) -> list[Placed]:
    """The tokens of each text, those of its predicate between markers."""
    opened, closed = markers(tokenizer)
    found = []
    for one, (_, predicate) in zip(placed(tokenizer, [text for text, _ in asked]), asked, strict=True):
        if predicate is None:
            found.append(one)
            continue
        inside = one.overlapping(*predicate)
        first, stop = inside[0], inside[-1] + 1
        ids = [*one.ids[:first], opened, *one.ids[first:stop], closed, *one.ids[stop:]]
        offsets = [*one.offsets[:first], (0, 0), *one.offsets[first:stop], (0, 0), *one.offsets[stop:]]
        found.append(Placed(ids, offsets))
    return found


def spans_of(classes: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int, str]]:
    """The spans in characters that a class a token says; an I that continues nothing begins a span. A
    character is in one span, however many tokens spell it."""
    found: list[tuple[int, int, str]] = []
    open_label: str | None = None
    for name, (start, stop) in zip(classes, offsets, strict=True):
        if start == stop:
            continue
        mark, _, label = name.partition("-")
        if mark == OUTSIDE:
            open_label = None
        elif mark == "I" and label == open_label:
            found[-1] = (found[-1][0], stop, label)
        elif found and start < found[-1][1]:
            # More bytes of a character that stands in a span already.
            continue
        else:
            found.append((start, stop, label))
            open_label = label
    return found


def _span(item: Any) -> tuple[int, int, str] | None:
    if not isinstance(item, dict):
        return None
    start, stop, label = (item.get(name) for name in ("start", "end", "label"))
    if type(start) is not int or type(stop) is not int or not isinstance(label, str):
        return None
    return start, stop, label


def _labelled(one: Placed, example: Tagged, number: dict[str, int]) -> list[Made] | DataError:
    labels = [0] * len(one.ids)
    for start, stop, label in example.spans:
        tokens = one.overlapping(start, stop)
        if any(labels[token] for token in tokens):
            return DataError(f"a token holds characters of two spans, at {start}")
        # With the markers of a predicate inside: a span is a run of labels.
        for token in range(tokens[0], tokens[-1] + 1) if tokens else ():
            labels[token] = number[f"{'B' if token == tokens[0] else 'I'}-{label}"]
    return [Made(one.ids, labels=labels or [IGNORED])]
