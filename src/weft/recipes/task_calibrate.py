"""How sure a checkpoint's answers are, fitted to labelled files, and a naive Bayes beside its network.

N texts, C labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.api.reading import ReadingModel
from weft.api.writing import WritingModel
from weft.checkpoint.huggingface import resolve
from weft.core.errors import DataError, UsageError
from weft.eval.metrics import calibration
from weft.recipes.task_answers import USUAL, Writing, ask, check_labels, cut, label_scores, temper
from weft.recipes.task_eval import Record, TaskFiles, check_language, labels_of, loaded
from weft.recipes.task_items import Item, read_items
from weft.tasks import Card, write_card
from weft.tasks.naive_bayes import FILE, NaiveBayes

Floats = npt.NDArray[np.float64]

_LEAST_GAIN = 2.0
"""Nats of all validation texts together: a weight more is worth as much by chance, once in twenty times."""


def calibrate(
    checkpoint: str | Path,
    files: TaskFiles,
    writing: Writing = USUAL,
    *,
    bayes: bool | None = None,
    dtype: str | None = None,
) -> Record:
    """Fit what the checkpoint's card says about confidence to ``files.test``, which must be no test split.

    Labels: the temperature (arXiv:1706.04599), by likelihood; with ``bayes`` the words of ``files.train`` are
    counted, but for texts that ``files.test`` has too, and how much a naive Bayes of them says beside the
    network is fitted with it, 0 where that makes the labels hardly likelier; False takes such a vote out
    again, None leaves it as it is. Translations and summaries: ``usual``, the median score. The card is
    written atomically; the weights stay as they are. Raises UsageError for tasks that have neither.
    """
    model = loaded(checkpoint, dtype, votes=bayes is None)
    card = model.card
    if card.form not in ("classify", "pairs", "extractive"):
        raise UsageError(f"The scores of {card.task} are not calibrated; this is for labels and for texts.")
    items = [item for item in read_items(files.test, files.settings(card)).items if item.given is not None]
    if not items:
        raise DataError("The model cannot be asked about any row of the files; give rows with texts.")
    check_labels(model, labels_of(card, items))
    if bayes is not None and card.form != "classify":
        raise UsageError(f"A naive Bayes stands beside labels of texts; the answers of {card.task} are none.")
    folder = resolve(checkpoint)
    if bayes:
        found, vote = _beside(model, items, read_items(files.train, files.settings(card)).items)
    else:
        found = _temperature(model, items) if card.form == "classify" else _usual(model, items, writing)
        found, vote = found | ({} if bayes is None else {"bayes": 0.0}), None
    fitted = {name: found[name] for name in ("temperature", "bayes", "usual") if name in found}
    if bayes is not None:
        _put_beside(folder, card, vote)
    write_card(folder, dataclasses.replace(card, **fitted))
    return {"checkpoint": str(checkpoint), "task": card.task, "items": len(items), **found}


def _put_beside(folder: Path, card: Card, vote: NaiveBayes | None) -> None:
    """Exchange the counts of a checkpoint. While they are exchanged nobody is told of them."""
    if card.bayes:
        write_card(folder, dataclasses.replace(card, bayes=0.0))
    if vote is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        vote.save(folder)


def _temperature(model: ReadingModel, items: Sequence[Item]) -> Record:
    used, labels = _known(model, items)
    logits = label_scores(model, used)
    fitted = calibration.temperature(logits, labels)
    _check_temperature(fitted, logits.argmax(axis=1) == labels)
    return {
        "temperature_before": model.card.temperature,
        "ece_before": _error(model, logits, labels, model.card.temperature),
        "temperature": fitted,
        "ece": _error(model, logits, labels, fitted),
        "ece_uncalibrated": _error(model, logits, labels, 1.0),
        "unknown_labels": len(items) - len(used),
    }


def _beside(
    model: ReadingModel, items: Sequence[Item], train: Sequence[Item]
) -> tuple[Record, NaiveBayes | None]:
    """Count the words of ``train``, and fit temperature and weight; no counts where they do not help."""
    used, labels = _known(model, items)
    asked = {item.key for item in items}
    fresh = [item for item in train if item.key not in asked]
    learnt = [item for item in fresh if item.given is not None and item.gold in model.labels]
    if lacking := set(model.labels) - {item.gold for item in learnt}:
        raise DataError(
            f"No text of the files for naive Bayes that the validation files do not have has the label "
            f"{min(lacking)!r}; give files with all the model's labels."
        )
    bayes = NaiveBayes([item.given for item in learnt], [item.gold for item in learnt])
    network = label_scores(model, used)
    evidence = model.evidence(bayes, [cut(model.tokenizer, item.given, model.reader.most) for item in used])
    alone = calibration.temperature(network, labels)
    read, counted = calibration.weights([network, evidence], labels).tolist()
    share = counted / read if min(read, counted) > 0 else 0.0
    logits = network + share * evidence
    fitted = calibration.temperature(logits, labels)
    gain = calibration.surprise(network, labels, alone) - calibration.surprise(logits, labels, fitted)
    if len(used) * gain < _LEAST_GAIN:
        share, logits, fitted = 0.0, network, alone
    hits = logits.argmax(axis=1) == labels
    _check_temperature(fitted, hits)
    record = {
        "temperature_before": model.card.temperature,
        "ece_before": _error(model, network, labels, model.card.temperature),
        "accuracy_before": float((network.argmax(axis=1) == labels).mean()),
        "temperature": fitted,
        "bayes": share,
        "accuracy": float(hits.mean()),
        "ece": _error(model, logits, labels, fitted),
        "counted_texts": len(learnt),
        "left_out": len(train) - len(fresh),
        "unknown_labels": len(items) - len(used),
    }
    return record, bayes if share else None


def _known(model: ReadingModel, items: Sequence[Item]) -> tuple[list[Item], npt.NDArray[np.int64]]:
    """The items whose label the model has, and its number [N]."""
    numbers = {label: number for number, label in enumerate(model.labels)}
    used = [item for item in items if item.gold in numbers]
    return used, np.array([numbers[item.gold] for item in used], dtype=np.int64)


def _check_temperature(fitted: float, hits: npt.NDArray[np.bool_]) -> None:
    if not 2 * calibration.COLDEST < fitted < calibration.HOTTEST / 2:
        raise DataError(
            f"No temperature fits these {len(hits):,} texts, of which {int(hits.sum()):,} are right; "
            "give more of them, some right and some wrong."
        )


def _error(model: ReadingModel, logits: Floats, labels: npt.NDArray[np.int64], degrees: float) -> float:
    """The expected calibration error at a temperature."""
    sure = np.array([guess.confidence for guess in temper(logits, model.labels, degrees)])
    return calibration.calibration(sure, logits.argmax(axis=1) == labels).error


def _usual(model: ReadingModel | WritingModel, items: Sequence[Item], writing: Writing) -> Record:
    check_language(model.card, items, writing.target_language)
    found = [guess.confidence for guess in ask(model, items, writing, "calibrate").guesses]
    usual = float(np.median([score for score in found if score is not None]))
    return {"usual_before": model.card.usual, "usual": usual}
