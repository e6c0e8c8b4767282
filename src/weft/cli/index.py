"""``weft index``: make a folder of texts searchable."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.command import Record, weft_command


@weft_command("index")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the index.")
@click.option(
    "--size", default=240, show_default=True, help="Words (or Han characters) of a passage, at most."
)
@click.option(
    "--overlap", default=40, show_default=True, help="Words that a passage repeats of the one before."
)
@click.option("--title-weight", default=2, show_default=True, help="How often words of a title count.")
@click.option("--k1", default=1.2, show_default=True, help="BM25: how fast repeated words stop to count.")
@click.option(
    "--b", default=0.75, show_default=True, help="BM25: how much long passages are held back, 0 to 1."
)
@click.option("--rank", default=300, show_default=True, help="Dimensions of latent vectors, at most.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal vectors.")
@click.option("--encoder", default="", help="Checkpoint of an encoder whose vectors are used instead.")
@click.option("--device", default="cpu", show_default=True, help="Where the encoder works: cpu or cuda.")
def command(sources: tuple[Path, ...], out: Path, device: str, **settings: object) -> Record:
    """Index SOURCES, folders or files of text, Markdown or JSON Lines (text, title, _id), for weft search.

    Nothing is done when the index of the same files is there already.
    """
    from weft.core import config
    from weft.retrieval.index import IndexConfig, index

    made = index(sources, out, config.build(IndexConfig, settings, where="the command line"), device)
    figures = {name: value for name, value in made.figures.items() if name != "least"}
    click.echo(
        f"{figures['documents']:,} documents, {figures['passages']:,} passages, {figures['terms']:,} terms, "
        f"vectors of {figures['dimensions']} dimensions in {out}",
        err=True,
    )
    if figures["skipped"]:
        reasons = ", ".join(f"{reason} {times:,}" for reason, times in figures["skipped"].items())
        click.echo(f"skipped: {reasons}", err=True)
    return {"index": str(out), **figures}
