"""A checkpoint on labelled files of its own task, beside baselines: figures and what a page needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.api.load import task_model
from weft.checkpoint.huggingface import resolve
from weft.checkpoint.kinds import read_config
from weft.core.errors import DataError, UsageError
from weft.core.files import hash_file
from weft.data.supervised_config import SupervisedConfig
from weft.eval.metrics import translation
from weft.eval.standing import MODEL
from weft.eval.task_scores import Answers, Guess, Labels, Question, Scorer, Spans, is_chinese, scores
from weft.eval.text_scores import Summaries, Translations
from weft.models import DecoderConfig
from weft.recipes.task_answers import USUAL, Writing, ask, check_labels
from weft.recipes.task_baselines import baselines
from weft.recipes.task_items import Files, Item, Read, read_items
from weft.tasks import Card

Record = dict[str, Any]

WORST, EXAMPLES = 20, 10
_LONGEST = 2000
"""Characters of a text in the record and the report."""


@dataclass(frozen=True)
class TaskFiles:
    """``test``: what is measured; ``train``: what baselines learn from.

    The other fields are those of :class:`weft.data.supervised_config.SupervisedConfig`.
    """

    test: Files
    train: Files = ()
    reader: str = ""
    options: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def settings(self, card: Card) -> SupervisedConfig:
        """How the files are read for a model with this card."""
        return SupervisedConfig(
            form=card.form,  # type: ignore[arg-type]
            reader=self.reader,
            options=self.options,
            fields=self.fields,
            names=self.names,
        )


def evaluate_task(
    checkpoint: str | Path,
    files: TaskFiles,
    writing: Writing = USUAL,
    *,
    dtype: str | None = None,
    seed: int = 0,
    draws: int = 2000,
) -> Record:
    """What the checkpoint answers for every row of ``files.test``, scored beside the baselines of its task.

    The record has ``figures`` (see :func:`weft.eval.standing.standing`), ``dropped`` rows and ``notes`` by
    reason, the ``worst`` errors and ``examples`` drawn with ``seed``. Raises UsageError for a decoder and for
    settings that do not fit, DataError for files without gold answers.
    """
    started = time.perf_counter()
    model = loaded(checkpoint, dtype)
    card = model.card
    settings = files.settings(card)
    read = read_items(files.test, settings)
    train = read_items(files.train, settings).items if files.train else []
    check_labels(model, labels_of(card, read.items))
    if card.form == "pairs":
        check_language(card, read.items, writing.target_language)
    asked = ask(model, read.items, writing)
    gold = [item.gold for item in read.items]
    chinese = card.form in ("pairs", "extractive") and _mostly_chinese(gold)
    systems = {MODEL: asked.guesses}
    systems |= baselines(card.task, read.items, train, "zh" if chinese else "en")
    scorer = _scorer(card, chinese, writing.target_language)
    known = {item.key for item in train if item.key}
    fresh = np.array([item.key not in known for item in read.items]) if train else None
    return {
        "checkpoint": str(checkpoint),
        "task": card.task,
        "temperature": card.temperature,
        "files": {str(file): hash_file(Path(file)) for file in files.test if Path(file).is_file()},
        "train_items": len(train),
        **scores(scorer, gold, systems, fresh, seed=seed, draws=draws),
        "in_training": 0 if fresh is None else int((~fresh).sum()),
        "dropped": read.reasons(),
        "dropped_rows": [list(row) for row in read.dropped[:WORST]],
        "notes": {reason: len(places) for reason, places in asked.notes.items()},
        **_shown(scorer, read, asked.guesses, seed),
        "seconds": round(time.perf_counter() - started, 2),
    }


def loaded(checkpoint: str | Path, dtype: str | None, *, votes: bool = True) -> Any:
    """A model that was trained for a task, without ``votes`` its network alone. UsageError for a decoder."""
    folder = resolve(checkpoint)
    if isinstance(read_config(folder), DecoderConfig):
        raise UsageError(
            f"{checkpoint} is a decoder, which has no task of its own; leave --task-files out to measure it "
            "on held-out text, or give --harness."
        )
    return task_model(folder, dtype, votes=votes)


def labels_of(card: Card, items: Sequence[Item]) -> set[str]:
    """The gold labels of classes and spans; none of other tasks."""
    if card.form == "classify":
        return {item.gold for item in items}
    return {label for item in items for _, _, label in item.gold} if card.form == "tag" else set()


def check_language(card: Card, items: Sequence[Item], target: str | None) -> None:
    """DataError where the files' second field is not in the language that shall be written."""
    wanted = target or (card.languages[1] if card.languages and not card.both_ways else None)
    chinese = _mostly_chinese([item.gold for item in items])
    if card.task == "translation" and wanted is not None and (wanted == "zh") != chinese and wanted != "ja":
        is_ = "is" if chinese else "is not"
        raise DataError(
            f"The target language is {wanted}, but the second field of the files {is_} Chinese; give the "
            "source's field or file first and the target's second."
        )


def _mostly_chinese(texts: Sequence[str]) -> bool:
    return 2 * sum(map(is_chinese, texts)) > len(texts)


def _scorer(card: Card, chinese: bool, target: str | None) -> Scorer:
    if card.form == "classify":
        return Labels()
    if card.form == "tag":
        return Spans()
    if card.form == "span":
        return Answers()
    if card.task == "translation":
        return Translations(translation.tokenizer(target or ("zh" if chinese else "en")))
    return Summaries("zh" if chinese else "en")


def _shown(scorer: Scorer, read: Read, guesses: Sequence[Guess], seed: int) -> Record:
    """The worst errors, most sure first among equals, and examples drawn from all items."""
    quality = scorer.quality([item.gold for item in read.items], guesses)
    order = sorted(range(len(quality)), key=lambda n: (quality[n], -(guesses[n].confidence or 0.0)))
    worst = [number for number in order[:WORST] if quality[number] < 1]
    count = min(EXAMPLES, len(quality))
    drawn = sorted(np.random.default_rng(seed).choice(len(quality), count, replace=False).tolist())

    def row(number: int) -> Record:
        item, guess = read.items[number], guesses[number]
        return {
            "where": item.where,
            "given": _spelled(item.given, item.given),
            "gold": _spelled(item.gold, item.given),
            "found": _spelled(guess.value, item.given),
            "quality": float(quality[number]),
            "confidence": guess.confidence,
            "reason": item.reason,
        }

    return {"worst": [row(number) for number in worst], "examples": [row(number) for number in drawn]}


def _spelled(value: Any, given: Any) -> str:
    """A gold answer, a guess or what was asked, as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, Question):
        return " / ".join(value.answers) or "–"
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        first, second = value
        if isinstance(second, str):
            return f"{first}\n{second}"[:_LONGEST]
        marked = first if second is None else f"{first}  [{first[second[0] : second[1]]}]"
        return marked[:_LONGEST]
    if isinstance(value, tuple):
        text = given[0] if isinstance(given, tuple) else ""
        return "; ".join(f"{label}: {text[start:stop]}" for start, stop, label in value) or "–"
    return str(value)[:_LONGEST] or "–"
