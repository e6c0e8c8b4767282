"""``weft data texts``: the texts of labelled files, to learn from before the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.command import Record, weft_command


@weft_command("data texts")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON Lines to write.")
@click.option("--reader", default="", help="Format: bio, cluener, roles, squad, lines, parallel, csv or tsv.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the reader.")
@click.option("--fields", default="", help="What makes a text, in order; by default text, context, ...")
@click.option("--exclude", multiple=True, type=click.Path(path_type=Path), help="Texts never to learn.")
@click.option("--label", "labels", multiple=True, help="Only texts with this label.  [default: all]")
@click.option("--join", default=1, show_default=True, help="So many texts are one document.")
@click.option("--sample", default=0, help="So many texts, drawn by chance.  [default: all]")
@click.option("--seed", default=0, show_default=True, help="Equal seeds draw equal texts.")
def texts(
    files: tuple[Path, ...], out: Path, exclude: tuple[Path, ...], fields: str, **settings: Any
) -> Record:
    """Write the texts of labelled FILES to OUT, without labels: for `weft data` and objective.name=masked.

    Each text is taken once, and none that stands in --exclude.
    """
    from weft.data import bare

    named = tuple(part.strip() for part in fields.split(",")) if fields else ()
    figures = bare.write(files, out, bare.BareConfig(fields=named, **settings), exclude)
    found = f"{figures['texts']:,} texts, {figures['characters']:,} characters"
    click.echo(f"{found}, in {figures['documents']:,} documents")
    for reason, count in figures["dropped"].items():
        click.echo(f"dropped: {reason} {count:,}")
    return {"out": str(out), **figures}
