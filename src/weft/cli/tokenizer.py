"""``weft tokenizer``: train a vocabulary on a data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.command import weft_command


@click.group("tokenizer")
def command() -> None:
    """Train a tokenizer."""


@weft_command("train")
@click.argument("data_folder", type=click.Path(path_type=Path))
@click.option("--vocab-size", type=int, default=8192, show_default=True, help="Tokens, a multiple of 64.")
@click.option("--sample-bytes", type=int, help="Learn from about this much text; 0 takes all of it.")
def train(data_folder: Path, vocab_size: int, sample_bytes: int | None) -> dict[str, Any]:
    """Learn a byte-level BPE vocabulary from the training documents of DATA_FOLDER."""
    from weft.data.config import TokenizerConfig
    from weft.data.vocabulary import train_tokenizer

    sample = TokenizerConfig.sample_bytes if sample_bytes is None else sample_bytes
    tokenizer = train_tokenizer(data_folder, vocab_size, sample)
    click.echo(f"{tokenizer.vocab_size:,} tokens in {data_folder / 'tokenizer'}")
    return {
        "folder": str(data_folder / "tokenizer"),
        "vocab_size": vocab_size,
        "fingerprint": tokenizer.fingerprint,
    }


command.add_command(train)
