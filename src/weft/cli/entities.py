"""``weft entities``: the named entities of each text."""

from __future__ import annotations

from pathlib import Path

from weft.cli import ask_model
from weft.cli.command import Record, weft_command


@weft_command("entities")
@ask_model.texts
def command(checkpoint: Path, dtype: str | None, texts: tuple[str, ...], file: str | None) -> Record:
    """Find the named entities of texts with CHECKPOINT: label, name and [start:end] in characters."""
    items = [{"text": text} for text in ask_model.read(texts, file)]
    return ask_model.tell(checkpoint, dtype, "entities", items, ask_model.pieces)
