"""``weft search``: the passages of an index that fit a query."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.command import Record, weft_command

SHOWN = 300


@weft_command("search")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("-k", default=10, show_default=True, help="Passages, at most.")
@click.option("--how", default="hybrid", show_default=True, help="bm25, dense or hybrid.")
@click.option("--device", default="cpu", show_default=True, help="Where an encoder works: cpu or cuda.")
def command(index: Path, query: str, k: int, how: str, device: str) -> Record:
    """Find the passages of INDEX, a folder that weft index wrote, that fit QUERY best."""
    from weft.retrieval.index import open_index

    opened = open_index(index, device)
    hits = opened.search(query, k, how)
    for place, hit in enumerate(hits, 1):
        click.echo(
            f"{place:>3}  {hit.score:.4f}  {hit.document} [{hit.start}:{hit.end}]  {hit.title}", err=True
        )
        click.echo(f"     {shortened(hit.text)}", err=True)
    if not hits:
        click.echo("No passage fits.", err=True)
    elif k > len(opened):
        click.echo(f"The index has only {len(opened):,} passages.", err=True)
    return {"query": query, "how": how, "hits": [hit.table() for hit in hits]}


def shortened(text: str) -> str:
    """The beginning of ``text`` in one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[:SHOWN] + " ..."
