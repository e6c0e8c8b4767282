"""``weft roles``: who did what around a predicate."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli import ask_model
from weft.cli.command import Record, weft_command
from weft.core.errors import UsageError


@weft_command("roles")
@ask_model.texts
@click.option("--predicate", metavar="WORD", help="A word that occurs once in each text.")
@click.option("--at", nargs=2, type=int, metavar="START END", help="The characters of the predicate instead.")
def command(
    checkpoint: Path,
    dtype: str | None,
    texts: tuple[str, ...],
    file: str | None,
    predicate: str | None,
    at: tuple[int, int] | None,
) -> Record:
    """Label the roles around a predicate with CHECKPOINT: label, words and [start:end] in characters."""
    if (predicate is None) == (at is None):
        raise UsageError("Give --predicate WORD or --at START END, one of them.")
    items = [{"text": text, "predicate": predicate or at} for text in ask_model.read(texts, file)]
    return ask_model.tell(checkpoint, dtype, "roles", items, ask_model.pieces)
