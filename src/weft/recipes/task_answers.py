"""A loaded model's answers to the items of an evaluation, in batches, with what had to be cut.

A text longer than the model reads is answered by its beginning, and counted; a question longer than a window
gets no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weft.api.reading import ReadingModel
from weft.api.writing import WritingModel
from weft.core.errors import DataError, UsageError
from weft.core.progress import Progress
from weft.data.forms.offsets import placed, start_ids
from weft.eval.task_scores import NOTHING, Guess
from weft.recipes.task_items import Item
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]

_TOGETHER = {"classify": 256, "tag": 128, "span": 64, "extractive": 64, "pairs": 64}
_MARKERS = 2
"""Tokens around a predicate."""


@dataclass(frozen=True)
class Writing:
    """How a model writes: see :meth:`weft.api.able.Able.translate` and ``summarize``."""

    target_language: str | None = None
    beams: int = 4
    max_length: int | None = None


USUAL = Writing()


@dataclass
class Asked:
    """``guesses``: one an item; ``notes``: by reason, where texts were cut or items got no answer."""

    guesses: list[Guess]
    notes: dict[str, list[str]] = field(default_factory=dict)

    def note(self, reason: str, where: str) -> None:
        """Remember an item."""
        self.notes.setdefault(reason, []).append(where)


def ask(model: Any, items: Sequence[Item], writing: Writing = USUAL, label: str = "eval") -> Asked:
    """Ask the model what it was trained for about every item."""
    asked = Asked([Guess(None)] * len(items))
    for item in items:
        if item.reason is not None:
            asked.note(item.reason, item.where)
    form = model.card.form
    given = _fitting(model, items, asked)
    if form == "pairs":
        # The limit of tokens follows from the longest source of a batch.
        given.sort(key=lambda pair: len(pair[1]))
    answer = _answering(model, writing)
    with Progress(label, len(given), "items") as progress:
        for batch in _batches(given, _TOGETHER[form]):
            found = answer([one for _, one in batch])
            for (number, _), guess in zip(batch, found, strict=True):
                asked.guesses[number] = guess
            progress.advance(len(batch))
    return asked


def temper(scores_NC: Floats, labels: Sequence[str], temperature: float) -> list[Guess]:
    """The best label of each row of scores [N, C], its probability with and without the temperature."""
    sure, before = _softmax(scores_NC / temperature), _softmax(scores_NC)
    return [
        Guess(labels[best], float(sure[row, best]), float(before[row, best]))
        for row, best in enumerate(scores_NC.argmax(axis=1).tolist())
    ]


def label_scores(model: ReadingModel, items: Sequence[Item]) -> Floats:
    """Scores float64 [N, C] of the labels before the softmax; every item must have a text."""
    given = _fitting(model, items, Asked([]))
    with Progress("calibrate", len(given), "items") as progress:
        found = []
        for batch in _batches(given, _TOGETHER["classify"]):
            found.append(model.scores([text for _, text in batch]))
            progress.advance(len(batch))
    return np.concatenate(found)


def check_labels(model: Any, gold: set[str]) -> None:
    """UsageError where the model knows none of the gold labels, DataError for the name of no label."""
    if model.card.form not in ("classify", "tag"):
        return
    if NOTHING in gold:
        raise DataError(f"{NOTHING!r} cannot be a label; give it another name with --name.")
    known = {name.partition("-")[2] if model.card.form == "tag" else name for name in model.labels} - {""}
    if gold and not gold & known:
        raise UsageError(
            f"The labels of the files ({_some(gold)}) are none of the model's ({_some(known)}); "
            "give --name LABEL=NAME, or --fields with the right column."
        )


def _answering(model: Any, writing: Writing) -> Callable[[list[Any]], list[Guess]]:
    form = model.card.form
    if form == "classify":
        return lambda texts: temper(model.scores(texts), model.labels, model.card.temperature)
    if form == "tag":
        return lambda asked: [_spans(spans) for spans in model.tagged(asked)]
    if form == "span":
        return lambda asked: [Guess(span.text, span.score) for span in model.answers(asked)]
    assert isinstance(model, WritingModel) or form == "extractive"
    return lambda texts: [Guess(str(text), text.score) for text in _written(model, texts, writing)]


def _written(model: Any, texts: list[str], how: Writing) -> Any:
    if model.card.task == "translation":
        return model.translate(texts, how.target_language, beams=how.beams, max_length=how.max_length)
    limit = {} if how.max_length is None else {"max_length": how.max_length}
    return model.summarize(texts, beams=how.beams, **limit)


def _spans(spans: Sequence[Any]) -> Guess:
    value = tuple((span.start, span.end, span.label) for span in spans)
    return Guess(value, float(np.mean([span.score for span in spans])) if spans else None)


def _fitting(model: Any, items: Sequence[Item], asked: Asked) -> list[tuple[int, Any]]:
    """(number, what is asked) of the items that can be asked, long texts cut."""
    form, tokenizer = model.card.form, model.tokenizer
    given = [(number, item.given) for number, item in enumerate(items) if item.given is not None]
    if form in ("pairs", "extractive"):
        return given
    most = model.reader.most
    if form == "span":
        room = (model.card.window or most) - len(start_ids(tokenizer)) - 1
        questions = tokenizer.encode_batch([question for _, (question, _) in given])
        long = {number for (number, _), ids in zip(given, questions, strict=True) if len(ids) >= room}
        for number in sorted(long):
            asked.note("question_too_long", items[number].where)
        return [pair for pair in given if pair[0] not in long]
    found = []
    for number, one in given:
        text, predicate = (one, None) if form == "classify" else one
        if form == "tag" and predicate is None:
            found.append((number, one))
            continue
        kept = cut(tokenizer, text, most - (_MARKERS if predicate else 0))
        if kept != text:
            asked.note("cut_to_window", items[number].where)
        if predicate is not None and predicate[1] > len(kept):
            asked.note("predicate_beyond_window", items[number].where)
        else:
            found.append((number, kept if form == "classify" else (kept, predicate)))
    return found


def cut(tokenizer: Tokenizer, text: str, most: int) -> str:
    """The beginning of a text that has at most ``most`` tokens, those before it counted."""
    # No tokenizer needs more tokens than bytes: short texts are not encoded twice.
    if len(text.encode("utf-8")) + len(start_ids(tokenizer)) <= most:
        return text
    one = placed(tokenizer, [text])[0]
    room = most
    while len(one.ids) > most:
        text = text[: one.offsets[room - 1][1]]
        one, room = placed(tokenizer, [text])[0], room - 1
    return text


def _batches(given: list[tuple[int, Any]], size: int) -> Iterator[list[tuple[int, Any]]]:
    for first in range(0, len(given), size):
        yield given[first : first + size]


def _softmax(scores_NC: Floats) -> Floats:
    odds = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
    found: Floats = odds / odds.sum(axis=1, keepdims=True)
    return found


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")
