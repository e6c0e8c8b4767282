"""Labels that a classifier is sure of, for texts without any: examples for the next classifier.

Self-training (Yarowsky 1995, "Unsupervised word sense disambiguation rivaling supervised methods"). A teacher
that is calibrated, perhaps with counted words beside its network, says how sure it is. What several teachers
say is averaged, for together they err less than each (Hansen and Salamon 1990, "Neural network ensembles").
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from weft.api.reading import ReadingModel
from weft.core.errors import DataError, UsageError
from weft.core.files import write_text_atomic
from weft.core.progress import Progress
from weft.data.examples import records
from weft.data.forms.base import spells_utf8
from weft.recipes.task_answers import cut
from weft.recipes.task_eval import loaded

Record = dict[str, Any]

LINES = ".txt"
"""The suffix of a file of ``label text``; any other is JSON Lines."""
_TOGETHER = 256


def label_texts(
    checkpoints: Sequence[str | Path], files: Sequence[str | Path], out: Path, least_score: float
) -> Record:
    """Write to ``out`` the texts of ``files`` (their field ``text``) to which the checkpoints give a label
    with a score of at least ``least_score``, the mean of theirs, and return what was counted.

    A text that is longer than what a model reads is left out. Raises UsageError for a checkpoint that labels
    no texts or has other labels than the first, for labels that ``out`` cannot hold and for a score that is
    none, DataError when no text can be read or none is left.
    """
    if not 0.0 <= least_score <= 1.0:
        raise UsageError(f"--least-score {least_score} must lie between 0 and 1.")
    models = _teachers(checkpoints)
    labels = models[0].labels
    lines = out.suffix == LINES
    if lines and (spaced := [label for label in labels if label.split() != [label]]):
        raise UsageError(f"The label {spaced[0]!r} has spaces; give --out with the suffix .jsonl.")
    dropped: Counter[str] = Counter()
    texts = list(_readable(models, files, dropped))
    if not texts:
        raise DataError(f"No text of {', '.join(map(str, files))} can be labelled: {dict(dropped)}.")
    rows = _labelled(models, texts, least_score)
    dropped["unsure"] = len(texts) - len(rows)
    if not rows:
        raise DataError(f"Of no text a label is as sure as --least-score {least_score}; lower it.")
    write_text_atomic(out, "".join(_line(row, lines) for row in rows))
    counts = Counter(row["label"] for row in rows)
    return {
        "texts": len(rows),
        "labels": {label: counts[label] for label in labels},
        "dropped": {reason: count for reason, count in dropped.items() if count},
    }


def _teachers(checkpoints: Sequence[str | Path]) -> list[ReadingModel]:
    models: list[ReadingModel] = []
    for checkpoint in checkpoints:
        model = loaded(checkpoint, None)
        if not isinstance(model, ReadingModel) or model.card.form != "classify":
            raise UsageError(f"{checkpoint} labels no texts; give a classifier.")
        if models and set(model.labels) != set(models[0].labels):
            raise UsageError(
                f"{checkpoint} has the labels {', '.join(model.labels)}, but {checkpoints[0]} "
                f"{', '.join(models[0].labels)}; teachers must agree on them."
            )
        models.append(model)
    return models


def _readable(
    models: Sequence[ReadingModel], files: Sequence[str | Path], dropped: Counter[str]
) -> Iterator[str]:
    for _, record, reason, _ in records(sorted(map(str, files)), ("text", "label")):
        text = record.get("text") if isinstance(record, dict) else None
        if reason is not None or not isinstance(text, str) or not text.strip():
            dropped[reason or "no_text"] += 1
        elif not spells_utf8(text):
            dropped["invalid_encoding"] += 1
        elif any(cut(model.tokenizer, text, model.reader.most) != text for model in models):
            dropped["too_long"] += 1
        else:
            yield text


def _labelled(models: Sequence[ReadingModel], texts: Sequence[str], least_score: float) -> list[Record]:
    rows: list[Record] = []
    with Progress("label", len(texts), "texts") as progress:
        for first in range(0, len(texts), _TOGETHER):
            batch = texts[first : first + _TOGETHER]
            for text, *found in zip(batch, *(model.classify(batch) for model in models), strict=True):
                scores = {label: fmean(one.scores[label] for one in found) for label in models[0].labels}
                label, score = max(scores.items(), key=lambda item: item[1])
                if score >= least_score:
                    rows.append({"text": text, "label": label, "score": round(score, 4)})
            progress.advance(len(batch))
    return rows


def _line(row: Record, lines: bool) -> str:
    if lines:
        return f"{row['label']} {' '.join(row['text'].split())}\n"
    return json.dumps(row, ensure_ascii=False) + "\n"
