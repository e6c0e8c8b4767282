"""``weft answer``: the answer to a question, out of a text."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli import ask_model
from weft.cli.command import Record, weft_command
from weft.core.errors import UsageError


@weft_command("answer")
@ask_model.checkpoint
@click.option("--question", "questions", multiple=True, required=True, help="May be given several times.")
@click.option("--context", help="The text that holds the answer.")
@click.option("--context-file", metavar="FILE", help="A file with that text, UTF-8; - is standard input.")
@click.option("--least-score", default=0.0, show_default=True, help="Below it, the answer is not found.")
def command(
    checkpoint: Path,
    dtype: str | None,
    questions: tuple[str, ...],
    context: str | None,
    context_file: str | None,
    least_score: float,
) -> Record:
    """Answer questions from a text with CHECKPOINT: the answer, its place and its score, a line each."""
    if (context is None) == (context_file is None):
        raise UsageError("Give --context TEXT or --context-file FILE, one of them.")
    text = context if context_file is None else ask_model.read_text(context_file)
    items = [{"question": question, "context": text} for question in questions]
    return ask_model.tell(checkpoint, dtype, "answer", items, _answer, {"least_score": least_score})


def _answer(record: Record) -> str:
    if not record["text"]:
        return f"{record['label']}\t{record['score']:.3f}"
    return f"{record['text']}\t[{record['start']}:{record['end']}]\t{record['score']:.3f}"
