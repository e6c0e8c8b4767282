"""Labels that a classifier is sure of, for texts without any: examples for the next classifier.

Self-training (Yarowsky 1995, "Unsupervised word sense disambiguation rivaling supervised methods"). A teacher
that is calibrated, perhaps with counted words beside its network, says how sure it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
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


def label_texts(checkpoint: str | Path, files: Sequence[str | Path], out: Path, least_score: float) -> Record:
    """Write to ``out`` the texts of ``files`` (their field ``text``) to which the checkpoint gives a label
    with at least ``least_score``, and return what was counted.

    A text that is longer than what the model reads is left out. Raises UsageError for a checkpoint that
    labels no texts, for labels that ``out`` cannot hold and for a score that is none, DataError when no text
    can be read or none is left.
    """
    if not 0.0 <= least_score <= 1.0:
        raise UsageError(f"--least-score {least_score} must lie between 0 and 1.")
    model = loaded(checkpoint, None)
    if not isinstance(model, ReadingModel) or model.card.form != "classify":
        raise UsageError(f"{checkpoint} labels no texts; give a classifier.")
    lines = out.suffix == LINES
    if lines and (spaced := [label for label in model.labels if label.split() != [label]]):
        raise UsageError(f"The label {spaced[0]!r} has spaces; give --out with the suffix .jsonl.")
    dropped: Counter[str] = Counter()
    texts = list(_readable(model, files, dropped))
    if not texts:
        raise DataError(f"No text of {', '.join(map(str, files))} can be labelled: {dict(dropped)}.")
    rows = _labelled(model, texts, least_score)
    dropped["unsure"] = len(texts) - len(rows)
    if not rows:
        raise DataError(f"Of no text a label is as sure as --least-score {least_score}; lower it.")
    write_text_atomic(out, "".join(_line(row, lines) for row in rows))
    labels = Counter(row["label"] for row in rows)
    return {
        "texts": len(rows),
        "labels": {label: labels[label] for label in model.labels},
        "dropped": {reason: count for reason, count in dropped.items() if count},
    }


def _readable(model: ReadingModel, files: Sequence[str | Path], dropped: Counter[str]) -> Iterator[str]:
    for _, record, reason, _ in records(sorted(map(str, files)), ("text", "label")):
        text = record.get("text") if isinstance(record, dict) else None
        if reason is not None or not isinstance(text, str) or not text.strip():
            dropped[reason or "no_text"] += 1
        elif not spells_utf8(text):
            dropped["invalid_encoding"] += 1
        elif cut(model.tokenizer, text, model.reader.most) != text:
            dropped["too_long"] += 1
        else:
            yield text


def _labelled(model: ReadingModel, texts: Sequence[str], least_score: float) -> list[Record]:
    rows: list[Record] = []
    with Progress("label", len(texts), "texts") as progress:
        for first in range(0, len(texts), _TOGETHER):
            batch = texts[first : first + _TOGETHER]
            for text, found in zip(batch, model.classify(batch), strict=True):
                if found.score >= least_score:
                    rows.append({"text": text, "label": str(found), "score": round(found.score, 4)})
            progress.advance(len(batch))
    return rows


def _line(row: Record, lines: bool) -> str:
    if lines:
        return f"{row['label']} {' '.join(row['text'].split())}\n"
    return json.dumps(row, ensure_ascii=False) + "\n"
