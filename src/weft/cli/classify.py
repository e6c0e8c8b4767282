"""``weft classify``: a label for each text."""

from __future__ import annotations

from pathlib import Path

from weft.cli import ask_model
from weft.cli.command import Record, weft_command


@weft_command("classify")
@ask_model.texts
def command(checkpoint: Path, dtype: str | None, texts: tuple[str, ...], file: str | None) -> Record:
    """Label texts with CHECKPOINT: the label and its probability, a line each."""
    items = [{"text": text} for text in ask_model.read(texts, file)]
    return ask_model.tell(checkpoint, dtype, "classify", items, ask_model.label)
