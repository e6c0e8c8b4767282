"""The learning curves of a training run, from its ``metrics.jsonl``: losses, and what validation measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from weft.core.chart import Series, line_chart, standalone
from weft.core.errors import DataError
from weft.core.files import write_text_atomic
from weft.core.page import Words

Record = dict[str, Any]
Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, Language] = ("en", "zh")

STEP = Words("step", "步")
LOSS = Words("loss, nats", "损失（奈特）")
_TRAINING = Words("training, smoothed", "训练（平滑）")
_VALIDATION = Words("validation", "验证")
_FIGURES = {
    "validation_accuracy": Words("validation accuracy", "验证准确率"),
    "validation_f1": Words("validation F1", "验证 F1"),
}


def write_curves(run: Path, prefix: Path, language: Language = "en") -> list[Path]:
    """Write ``PREFIX-loss.svg``, and ``PREFIX-FIGURE.svg`` for each further figure of validation.

    Each opens alone, on a light page and on a dark one. Raises DataError for a folder without metrics.
    """
    metrics = read_metrics(run / "metrics.jsonl")
    if not metrics:
        raise DataError(f"{run} holds no metrics.jsonl with steps; give the --out folder of a weft train.")
    charts = {"loss": loss_chart(metrics, LOSS, language)}
    charts |= {
        name.removeprefix("validation_"): curve(metrics, name, figure_words(name), language)
        for name in validation_figures(metrics)
    }
    files = []
    for name, chart in charts.items():
        file = prefix.with_name(f"{prefix.name}-{name}.svg")
        write_text_atomic(file, standalone(chart))
        files.append(file)
    return files


def read_metrics(file: Path) -> list[Record]:
    """The records of the steps of a run; none where there is no file."""
    if not file.is_file():
        return []
    records: list[Record] = []
    for line in file.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            # Half a line of a run that was killed.
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def validation_figures(metrics: Sequence[Record]) -> list[str]:
    """What validation measured beside the loss: names that only its records have, in their order."""
    checked = [record for record in metrics if record.get("validation_loss") is not None]
    usual = {name for record in metrics if record.get("validation_loss") is None for name in record}
    names = dict.fromkeys(name for record in checked for name in record)
    return [name for name in names if name not in usual | {"step", "loss", "validation_loss"}]


def figure_words(name: str) -> Words:
    """A figure of validation as people call it."""
    plain = name.replace("_", " ")
    return _FIGURES.get(name, Words(plain, plain))


def loss_chart(metrics: Sequence[Record], words: Words, language: Language) -> str:
    """The SVG of the loss over steps: raw, smoothed, and of validation."""
    raw, checked = _points(metrics, "loss"), _points(metrics, "validation_loss")
    lines = [*_smoothed(raw, getattr(_TRAINING, language))]
    lines.append(Series(getattr(_VALIDATION, language), *checked, colour=1))
    return _chart(lines, words, language, log=True)


def curve(
    metrics: Sequence[Record],
    name: str,
    words: Words,
    language: Language,
    *,
    smooth: bool = False,
    log: bool = False,
) -> str:
    """The SVG of one figure over steps, ``smooth`` with the raw values pale behind it."""
    points, label = _points(metrics, name), getattr(words, language)
    return _chart(_smoothed(points, label) if smooth else [Series(label, *points)], words, language, log=log)


def _points(metrics: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    found = [(record["step"], record[name]) for record in metrics if record.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _smoothed(points: tuple[list[int], list[float]], name: str) -> list[Series]:
    steps, values = points
    return [Series("", steps, values, faint=True), Series(name, steps, _running(values))]


def _chart(lines: Sequence[Series], words: Words, language: Language, *, log: bool) -> str:
    x, y = (getattr(label, language) for label in (STEP, words))
    return line_chart(lines, x_label=x, y_label=y, log_y=log)


def _running(values: Sequence[float], share: float = 0.02) -> list[float]:
    """A running mean that forgets over about ``share`` of the run, without the bias of its start."""
    keep = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    smoothed = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smoothed.append(total / weight)
    return smoothed
