"""``weft sentiment``: the sentiment of each text."""

from __future__ import annotations

from pathlib import Path

from weft.cli import ask_model
from weft.cli.command import Record, weft_command


@weft_command("sentiment")
@ask_model.texts
def command(checkpoint: Path, dtype: str | None, texts: tuple[str, ...], file: str | None) -> Record:
    """Say the sentiment of texts with CHECKPOINT, in the words of its training labels: a line each."""
    items = [{"text": text} for text in ask_model.read(texts, file)]
    return ask_model.tell(checkpoint, dtype, "sentiment", items, ask_model.label)
