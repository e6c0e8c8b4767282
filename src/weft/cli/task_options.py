"""Options of the verbs that read labelled files with a checkpoint, and their result for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from weft.cli.command import Record

_OPTIONS = (
    click.option(
        "--task-files", multiple=True, type=click.Path(path_type=Path), help="Labelled files, as they are."
    ),
    click.option("--fields", default="", help="source,target of pairs, or text,label: their names."),
    click.option(
        "--reader", default="", help="Format: bio, cluener, roles, squad, lines, parallel, csv or tsv."
    ),
    click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the reader."),
    click.option("--name", "names", multiple=True, metavar="LABEL=NAME", help="Another name for a label."),
    click.option("--target-language", help="Of a translation: what the second field is written in."),
    click.option("--beams", default=4, show_default=True, help="Of translations and summaries; 1 is greedy."),
    click.option("--max-length", type=int, help="Tokens of a translation or summary, at most."),
)


def task_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of labelled files, named as in `weft data supervised`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def task_given(
    task_files: tuple[Path, ...],
    fields: str,
    reader: str,
    options: tuple[str, ...],
    names: tuple[str, ...],
    target_language: str | None,
    beams: int,
    max_length: int | None,
    train_files: tuple[Path, ...] = (),
) -> tuple[Any, Any]:
    """The options as :class:`weft.recipes.task_eval.TaskFiles` and how the model shall write."""
    from weft.recipes.task_answers import Writing
    from weft.recipes.task_eval import TaskFiles

    listed = tuple(part.strip() for part in fields.split(",")) if fields else ()
    return (
        TaskFiles(task_files, train_files, reader, options, listed, names),
        Writing(target_language, beams, max_length),
    )


def task_table(record: Record) -> str:
    """The figures for people."""
    lines = [f"{record['task']}: {record['items']:,} items, 95 % intervals in brackets"]
    lines += figure_rows(record["figures"])
    if record.get("deduplicated"):
        lines.append(f"de-duplicated: {record['deduplicated']['items']:,} items that training does not have")
        lines += figure_rows(record["deduplicated"]["figures"])
    for name, signature in record.get("signatures", {}).items():
        lines.append(f"{name}: {signature}")
    lines += [f"without a gold answer: {reason} {count:,}" for reason, count in record["dropped"].items()]
    for reason, count in record["notes"].items():
        lines.append(f"{'cut' if reason == 'cut_to_window' else 'wrong, not asked'}: {reason} {count:,}")
    if not record["train_items"] and record["task"] not in ("answers",):
        lines.append("Without --train-files there is no baseline that learns.")
    return "\n".join(lines)


def figure_rows(figures: list[Record]) -> list[str]:
    """A line for each figure of the model, those of baselines below it."""
    from weft.recipes.task_report import interval

    lines = []
    for row in figures:
        lines.append(f"  {row['name']:<16} {'model':<14} {interval(row['model'], row['unit'])}")
        for name, estimate in row["baselines"].items():
            lines.append(f"  {'':<16} {name:<14} {interval(estimate, row['unit'])}")
        if row.get("model_minus_best"):
            difference = interval(row["model_minus_best"]["difference"], row["unit"])
            lines.append(f"  {'':<16} model - {row['best_baseline']}: {difference}")
    return lines
