"""``weft embed``: a vector for each text."""

from __future__ import annotations

from pathlib import Path

from weft.cli import ask_model
from weft.cli.command import Record, weft_command


@weft_command("embed")
@ask_model.texts
def command(checkpoint: Path, dtype: str | None, texts: tuple[str, ...], file: str | None) -> Record:
    """Turn texts into vectors of length 1 with CHECKPOINT: the numbers, a line each."""
    items = [{"text": text} for text in ask_model.read(texts, file)]
    return ask_model.tell(checkpoint, dtype, "embed", items, _numbers)


def _numbers(record: Record) -> str:
    return " ".join(f"{value:.6g}" for value in record["embedding"])
