"""Options of ``weft eval`` for chat models, and what it does with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from weft.cli.command import Record
from weft.cli.task_options import figure_rows
from weft.core.errors import UsageError

CHAT_OPTIONS = ("chat", "judge", "against")
ANSWERING_OPTIONS = ("max_new_tokens", "temperature", "seed")
_OPTIONS = (
    click.option(
        "--chat", multiple=True, type=click.Path(path_type=Path), help="Conversations to be answered."
    ),
    click.option(
        "--judge",
        type=click.Path(path_type=Path),
        help="A .py file with judge(prompt, first, second), which is run; JSON Lines of verdicts; or the "
        "folder of a chat model, which judges by likelihood.",
    ),
    click.option(
        "--against", help="A chat model to compare with; by default reference, the answers in the files."
    ),
)


def chat_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :data:`CHAT_OPTIONS`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def evaluate_on_chats(
    checkpoint: Path,
    report: Path | None,
    how: dict[str, Any],
    *,
    chat: tuple[Path, ...],
    judge: Path | None,
    against: str | None,
) -> Record:
    """Answer, judge, and write the page and the answers. UsageError for options that do not fit."""
    from weft.recipes.chat_eval import REFERENCE, Answering, evaluate_chat, open_judge
    from weft.recipes.chat_report import write_answers, write_chat_report

    if not chat:
        raise UsageError("--judge and --against compare answers to --chat FILE; give it too.")
    report = report or checkpoint / "eval.html"
    answers = report.with_suffix(".jsonl")
    if judge is not None and judge.resolve() == answers.resolve():
        raise UsageError(f"The answers would be written over the verdicts in {judge}; rename that file.")
    answering = Answering(**how)
    # A judge that cannot be opened is told before anything is answered.
    opened = None if judge is None else open_judge(judge, answering)
    found = evaluate_chat(checkpoint, chat, against or REFERENCE, answering)
    write_answers(found, answers)
    click.echo(f"answers: {answers}", err=True)
    if opened is not None and judge is not None:
        found = found.judged_by(opened, judge)
        write_answers(found, answers)
    write_chat_report(found, answers, report)
    click.echo(chat_table(found.record), err=True)
    click.echo(f"report: {report}", err=True)
    return {**found.record, "answers": str(answers), "report": str(report)}


def chat_table(record: Record) -> str:
    """The figures for people."""
    lines = [f"{record['items']:,} conversations, 95 % intervals in brackets"]
    lines += figure_rows(record["figures"])
    told = record.get("verdicts")
    if told is not None:
        lines.append(f"this model against {record['against']}, judged by {told['judge']}, in percent")
        lines += figure_rows(told["figures"])
        lines.append(
            f"ties: {told['equal_answers']:,} equal answers, {told['orders_disagree']:,} where the two "
            f"orders disagree; judged in one order only: {told['judged_once']:,}"
        )
    for who, notes in record["notes"].items():
        lines += [f"{who}: {name.replace('_', ' ')} {count:,}" for name, count in notes.items()]
    return "\n".join(lines)
