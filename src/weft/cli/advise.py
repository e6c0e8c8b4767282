"""``weft advise --data FOLDER --budget 10m``."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.command import Record, weft_command


@weft_command("advise")
@click.argument("settings", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder made by `weft data supervised`, or by `weft data` for text.",
)
@click.option(
    "--task",
    type=click.Choice(("classify", "tag", "pairs", "text")),
    help="What the data is for; by default what its folder says.",
)
@click.option(
    "--budget", metavar="TIME", default="10m", show_default=True, help="For all candidates together."
)
@click.option("--length", type=int, help="Tokens of a row; by default 99 % of the texts fit, at most 512.")
@click.option("--seed", default=0, show_default=True, help="Of every candidate.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/advise"), show_default=True)
def command(
    settings: tuple[str, ...],
    data: Path,
    task: str | None,
    budget: str,
    length: int | None,
    seed: int,
    out: Path,
) -> Record:
    """Say by measurement which architecture fits a task and its data.

    Every candidate is trained with an equal share of the budget and measured on the validation split.
    Settings of a run file, such as train.device=cpu, hold for all of them. Run it again to go on where it was
    interrupted.
    """
    from weft.recipes.advise import report
    from weft.recipes.advise.candidates import subject
    from weft.recipes.advise.sweep import sweep

    chosen = subject(data, task, length)
    found = sweep(
        chosen, out, budget, seed=seed, settings=settings, say=lambda text: click.echo(text, err=True)
    )
    advice = report.advise(found, out, settings)
    record = report.write(found, advice, out)
    for line in report.table(found):
        click.echo(line)
    for sentence in (advice.sentence, *([advice.floor] if advice.floor else [])):
        click.echo(sentence.en)
        click.echo(sentence.zh)
    for line in advice.commands:
        click.echo(f"  {line}")
    click.echo(f"the picture: {out / 'advise.html'}")
    return record
