"""``weft translate``: texts into another language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli import ask_model
from weft.cli.command import Record, weft_command
from weft.core.errors import UsageError


@weft_command("translate")
@ask_model.texts
@click.option("--to", "target_language", metavar="LANGUAGE", help="As in training, for instance zh.")
@click.option("--alternatives", default=1, show_default=True, help="How many translations of each text.")
@click.option("--glossary", metavar="FILE", help="Lines of a term, a tab, and how it shall be translated.")
@click.option("--beams", default=4, show_default=True, help="Beams of the search; 1 is greedy.")
@click.option("--max-length", type=int, help="Tokens of a translation; by default what the source needs.")
def command(
    checkpoint: Path,
    dtype: str | None,
    texts: tuple[str, ...],
    file: str | None,
    glossary: str | None,
    **settings: Any,
) -> Record:
    """Translate texts with CHECKPOINT: a line each, alternatives behind tabs."""
    items = [{"text": text} for text in ask_model.read(texts, file)]
    settings["glossary"] = None if glossary is None else _terms(glossary)
    return ask_model.tell(checkpoint, dtype, "translate", items, ask_model.written, settings)


def _terms(file: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(ask_model.read_text(file).splitlines(), 1):
        term, _, target = (part.strip() for part in line.partition("\t"))
        if line.strip() and not (term and target):
            raise UsageError(f"Line {number} of {file} is no term, a tab and its translation.")
        if term:
            found[term] = target
    return found
