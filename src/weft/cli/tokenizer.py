"""``weft tokenizer``: train a vocabulary on a data folder, extend that of a checkpoint, and compare some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.command import Record, weft_command

if TYPE_CHECKING:
    from weft.tokenizer.compression import Compression

_HEAD = ("tokenizer", "language", "bytes/token", "single-byte", "round trip", "MB/s a core")


@click.group("tokenizer")
def command() -> None:
    """Train a tokenizer, extend that of a checkpoint, or compare some."""


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
    stale = are_stale(data_folder, tokenizer.fingerprint)
    if stale:
        settings = f"tokenizer.vocab_size={vocab_size}"
        settings += f" tokenizer.sample_bytes={sample_bytes}" if sample_bytes is not None else ""
        click.echo(
            f"The shards in {data_folder / 'shards'} were made with another tokenizer and are stale now; to "
            f"make them again, repeat the weft data command of this folder with {settings} "
            "and no --tokenizer (it keeps the documents).",
            err=True,
        )
    return {
        "folder": str(data_folder / "tokenizer"),
        "vocab_size": vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "shards_stale": stale,
    }


def are_stale(data_folder: Path, fingerprint: str) -> bool:
    """Whether there are shards that were made with another tokenizer than the one of ``fingerprint``."""
    from weft.core import manifest
    from weft.data.schema import SHARDS

    shards = manifest.read(data_folder / SHARDS)
    return shards is not None and shards["inputs"].get("tokenizer") != fingerprint


@weft_command("compare")
@click.argument("text", type=click.Path(path_type=Path), metavar="DATA_FOLDER_OR_TEXT")
@click.argument("tokenizers", nargs=-1, type=click.Path(path_type=Path), metavar="[TOKENIZER]...")
@click.option("--split", default="test", show_default=True, help="Documents of a data folder to encode.")
@click.option("--sample-bytes", default=4 << 20, show_default=True, help="How much text, about.")
def compare(text: Path, tokenizers: tuple[Path, ...], split: str, sample_bytes: int) -> Record:
    """Measure tokenizers on held-out documents of a data folder, or on a text file or folder.

    The data folder's own tokenizer comes first. TOKENIZER is a tokenizer.json or a folder that holds one.
    """
    from weft.core.errors import UsageError
    from weft.data.passages import read_passages
    from weft.tokenizer import Tokenizer
    from weft.tokenizer.compression import compress, total

    own = text / "tokenizer"
    paths = [*([own] if (own / "tokenizer.json").is_file() else []), *tokenizers]
    if not paths:
        raise UsageError(f"There is no tokenizer in {text} and none was given; name a tokenizer.json.")
    opened = {str(path): Tokenizer.load(path) for path in paths}
    passages = read_passages(text, split, sample_bytes)
    measured = {name: compress(tokenizer, passages) for name, tokenizer in opened.items()}
    click.echo(table({name: {**found, "all": total(found)} for name, found in measured.items()}), err=True)
    return {
        "text": str(text),
        "tokenizers": {
            name: {
                "vocab_size": opened[name].vocab_size,
                "fingerprint": opened[name].fingerprint,
                "all": figures(total(found)),
                "languages": {language: figures(one) for language, one in found.items()},
            }
            for name, found in measured.items()
        },
    }


@weft_command("extend")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--data", multiple=True, required=True, type=click.Path(path_type=Path), help="A data folder or text."
)
@click.option("--add", type=int, required=True, help="New tokens, at most.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--sample-bytes", default=32 << 20, show_default=True, help="How much text of each, about.")
def extend(checkpoint: Path, data: tuple[Path, ...], add: int, out: Path, sample_bytes: int) -> Record:
    """Give CHECKPOINT the tokens that the text of a domain needs, and embeddings for them.

    Its merges go on over the training documents of a data folder, or over text files; every token keeps its
    id. A new row is the mean of the rows of the tokens it was spelled with before. Train it on that text
    afterwards: weft data TEXTS --tokenizer OUT --out DATA, then weft train model.start=OUT data.path=DATA.
    """
    from weft.checkpoint.extend import extend_checkpoint
    from weft.data.passages import read_passages

    texts = [
        text
        for path in data
        for found in read_passages(path, "train", sample_bytes).values()
        for text in found
    ]
    made = extend_checkpoint(checkpoint, texts, add, out)["figures"]
    sizes = made["vocab_size"]
    click.echo(
        f"{out}: {made['new_tokens']:,} new tokens, {made['tokens']:,} in all; rows of the embedding "
        f"{sizes['before']:,} -> {sizes['after']:,}"
    )
    return {"out": str(out), **made}


def figures(found: Compression) -> Record:
    """Counts and rates of one tokenizer on one language."""
    rates = {name: getattr(found, name) for name in ("bytes_per_token", "single_share", "bytes_per_second")}
    return {**asdict(found), **rates}


def table(measured: Mapping[str, Mapping[str, Compression]]) -> str:
    """The figures for people: languages with most text first, all of them together last."""
    rows = [_HEAD]
    for name, found in measured.items():
        for language in sorted(found, key=lambda key: (key == "all", -found[key].bytes)):
            one = found[language]
            rows.append(
                (
                    name,
                    language,
                    f"{one.bytes_per_token:.3f}",
                    f"{100 * one.single_share:.1f} %",
                    "exact" if one.exact == one.texts else f"{one.exact:,} of {one.texts:,} texts",
                    f"{one.bytes_per_second / 1e6:.1f}",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)


command.add_command(train)
command.add_command(extend)
command.add_command(compare)
