"""The examples of an evaluation as a Markdown table, for documents: what was asked, found and right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.recipes.task_report import FIGURES, TASKS

Record = dict[str, Any]

_ASKED = {
    "roles": "text [predicate]",
    "answers": "question / text",
    "translation": "source",
    "summary": "text",
}
_QUALITY = {
    "classification": "right",
    "sentiment": "right",
    "entities": "F1",
    "roles": "F1",
    "answers": "F1",
    "translation": "sentence BLEU",
    "summary": "ROUGE-L",
}
_LONGEST = 400
"""Characters of a cell; a table of whole articles would be read by nobody."""


def examples_markdown(record: Record, worst: int = 3) -> str:
    """The items drawn at random and the ``worst`` errors of a record of
    :func:`weft.recipes.task_eval.evaluate_task`, below the figures of the same run."""
    task = record["task"]
    figures = ", ".join(
        f"{FIGURES[row['name']].en if row['name'] in FIGURES else row['name']} "
        f"{_figure(row['model']['value'], row['unit'])}"
        for row in record["figures"]
    )
    parts = [
        f"{TASKS[task].en}: {record['items']:,} items; {figures}.",
        f"{len(record['examples'])} items, drawn at random:\n\n{_table(task, record['examples'])}",
    ]
    shown = record["worst"][:worst]
    if shown:
        parts.append(f"The {len(shown)} worst:\n\n{_table(task, shown)}")
    return "\n\n".join(parts) + "\n"


def _figure(value: float, unit: str) -> str:
    return f"{100 * value:.2f} %" if unit == "share" else f"{value:.4g}"


def _table(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    head = [_ASKED.get(task, "text"), "answer", "gold", _QUALITY.get(task, "quality"), "confidence"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        sure = "–" if row["confidence"] is None else f"{row['confidence']:.2f}"
        lines.append(
            [_cell(row["given"]), _cell(row["found"]), _cell(row["gold"]), f"{row['quality']:.2f}", sure]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """A text in one cell: on one line, cut, and nothing in it read as Markdown or HTML."""
    plain = " ".join(text.split())
    short = plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
    for mark in "\\|*_`<>[]~":
        short = short.replace(mark, "\\" + mark)
    return short.replace("&", "&amp;")
