"""``weft ask``: an answer out of an index, with its sources."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.command import Record, weft_command


@weft_command("ask")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("-k", default=5, show_default=True, help="Passages that the answer may come from.")
@click.option("--how", default="hybrid", show_default=True, help="bm25, dense or hybrid.")
@click.option("--device", default="cpu", show_default=True, help="Where an encoder works: cpu or cuda.")
def command(index: Path, question: str, k: int, how: str, device: str) -> Record:
    """Answer QUESTION with sentences of INDEX, a folder that weft index wrote, and cite where they stand.

    Says that nothing was found when no passage holds enough of the question's words.
    """
    from weft.retrieval.index import open_index

    found = open_index(index, device).ask(question, k, how)
    click.echo(found.text, err=True)
    for mark, hit in enumerate(found.citations, 1):
        title = f"  {hit.title}" if hit.title else ""
        click.echo(f"[{mark}] {hit.document} [{hit.start}:{hit.end}]{title}", err=True)
    return {"question": question, **found.table()}
