"""``weft summarize``: shorter texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli import ask_model
from weft.cli.command import Record, weft_command


@weft_command("summarize")
@ask_model.texts
@click.option("--max-length", default=50, show_default=True, help="Tokens of a summary.")
@click.option("--beams", default=4, show_default=True, help="Beams of the search; 1 is greedy.")
def command(
    checkpoint: Path, dtype: str | None, texts: tuple[str, ...], file: str | None, **settings: Any
) -> Record:
    """Summarize texts with CHECKPOINT: a line each."""
    items = [{"text": text} for text in ask_model.read(texts, file)]
    return ask_model.tell(checkpoint, dtype, "summarize", items, ask_model.written, settings)
