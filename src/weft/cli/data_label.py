"""``weft data label``: texts without labels get those that a classifier is sure of."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.command import Record, weft_command


@weft_command("data label")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="JSON Lines to write; .txt: label text."
)
@click.option("--least-score", default=0.9, show_default=True, help="How sure a label has to be, 0 to 1.")
@click.option(
    "--with", "others", multiple=True, type=click.Path(path_type=Path), help="One more teacher; repeatable."
)
def label(
    checkpoint: Path, files: tuple[Path, ...], out: Path, least_score: float, others: tuple[Path, ...]
) -> Record:
    """Write the texts of FILES with the labels that CHECKPOINT, a classifier, is sure of.

    FILES hold a text a record, as `weft data texts` writes them. OUT is more to learn from for `weft data
    supervised`. Calibrate CHECKPOINT first, or its scores say little. Of several teachers (--with) the mean
    of the scores counts.
    """
    from weft.recipes.self_training import label_texts

    record = label_texts([checkpoint, *others], files, out, least_score)
    counts = ", ".join(f"{name} {count:,}" for name, count in record["labels"].items())
    click.echo(f"{record['texts']:,} texts with labels: {counts}")
    for reason, count in record["dropped"].items():
        click.echo(f"dropped: {reason} {count:,}")
    teachers = [str(checkpoint), *map(str, others)]
    return {"checkpoint": str(checkpoint), "teachers": teachers, "out": str(out), **record}
