"""``weft data``: from files to token shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.command import weft_command


@weft_command("data")
@click.argument("sources", nargs=-1, metavar="[RUN.toml] SOURCE... [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--config", "run_file", type=click.Path(path_type=Path), help="A run file in TOML.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Use this tokenizer; train none.")
def command(
    sources: tuple[str, ...], out: Path, run_file: Path | None, tokenizer: Path | None
) -> dict[str, Any]:
    """Read text from files, folders or globs and make documents, a tokenizer and token shards.

    Junk and duplicates are set aside with their reasons under OUT/dropped. A run file (RUN.toml) and
    KEY=VALUE pairs set what differs from the defaults, for instance split.test=0.05. A second start
    continues where the first one stopped.
    """
    from weft.core.config import load
    from weft.core.errors import UsageError
    from weft.data.config import DataConfig
    from weft.data.prepare import prepare

    given = [source for source in sources if not is_override(source)]
    overrides = [source for source in sources if is_override(source)]
    if given and given[0].endswith(".toml") and run_file is None:
        run_file = Path(given.pop(0))
    if tokenizer is not None:
        if any(override.startswith("tokenizer.path=") for override in overrides):
            raise UsageError("--tokenizer and tokenizer.path= say the same thing; give one of them.")
        overrides.append(f"tokenizer.path={tokenizer}")
    record = prepare(load(DataConfig, run_file, overrides), given, out)
    show(record["figures"], out)
    return record


def is_override(argument: str) -> bool:
    """Whether an argument reads ``section.key=value`` and is not the name of a file."""
    key = argument.partition("=")[0]
    return "=" in argument and key.replace(".", "").replace("_", "").isalpha() and not Path(argument).exists()


def show(figures: dict[str, Any], out: Path) -> None:
    """Print the funnel as a table."""
    rows = [("read", figures["in"])]
    rows += [(f"  dropped: {reason}", count) for reason, count in figures["dropped"].items()]
    rows += [("kept", figures["kept"])]
    rows += [(f"  {split}", count) for split, count in figures["splits"].items()]
    for label, count in rows:
        click.echo(f"{label:<32}{count['documents']:>12,} documents{count['bytes'] / 1e6:>12,.2f} MB")
    shards = figures["shards"]
    tokens = sum(shards[split]["tokens"] for split in figures["splits"])
    click.echo(f"{tokens:,} tokens of a vocabulary of {shards['vocab_size']:,} in {out / 'shards'}")
