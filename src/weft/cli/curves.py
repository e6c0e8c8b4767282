"""``weft curves``: the learning curves of a training run as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.command import Record, weft_command


@weft_command("curves")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="PREFIX of the files.  [default: RUN/curves]")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
def command(run: Path, out: Path | None, language: Any) -> Record:
    """Draw the curves of RUN, a folder of `weft train`, finished or not, as SVG.

    PREFIX-loss.svg has the loss of training and of validation; every further figure of validation gets a
    file of its own, such as PREFIX-accuracy.svg.
    """
    from weft.recipes.curves import write_curves

    files = write_curves(run, out or run / "curves", language)
    for file in files:
        click.echo(file)
    return {"run": str(run), "files": [str(file) for file in files]}
