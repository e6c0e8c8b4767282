"""``weft train RUN.toml --budget 30m``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.command import run_file_or_setting, weft_command

if TYPE_CHECKING:
    from weft.train.config import TrainRun


@weft_command("train")
@click.argument("run_file", metavar="[RUN.toml]", required=False, type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--data", metavar="FOLDER", help="A folder made by `weft data`; short for data.path=FOLDER.")
@click.option("--budget", metavar="TIME", help="The one dial, for instance 30m; short for train.budget=TIME.")
@click.option(
    "--parallel",
    metavar="PLAN",
    help="How the processes share the work, for instance dp=2,tp=2, or auto; short for [parallel].",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/train"), show_default=True)
def command(
    run_file: Path | None,
    overrides: tuple[str, ...],
    data: str | None,
    budget: str | None,
    parallel: str | None,
    out: Path,
) -> dict[str, Any]:
    """Train a model from a run file within a time budget, or continue an interrupted run."""
    from weft.parallel.world import declared
    from weft.train.session import train

    run = requested(run_file, overrides, data, budget, parallel, declared())
    record = train(run, out, say=lambda text: click.echo(text, err=True))
    figures = record["figures"]
    click.echo(
        f"trained {figures['parameters'] / 1e6:.1f} M parameters on "
        f"{figures['tokens'] / 1e6:.1f} M tokens in "
        f"{figures['seconds']:.0f} s ({figures['tokens_per_second']:,.0f} tokens/s, "
        f"{100 * figures['peak_share']:.0f} % of the measured peak); the model is {out / 'model'}"
    )
    return {"run": str(out), **figures}


def requested(
    run_file: Path | None,
    overrides: tuple[str, ...],
    data: str | None,
    budget: str | None,
    parallel: str | None,
    processes: int | None = None,
) -> TrainRun:
    """The run that the arguments ask for; ConfigError and UsageError for what cannot be read.

    ``--parallel auto`` takes the planner's layout for so many ``processes``, or for as many as it finds
    fastest on this machine.
    """
    from weft.core import config
    from weft.parallel.plan import Plan
    from weft.train import planning
    from weft.train.config import TrainRun

    run_file, overrides = run_file_or_setting(run_file, overrides)
    short = [f"data.path={data}"] if data else []
    short += [f"train.budget={budget}"] if budget else []
    run = config.load(TrainRun, run_file, [*overrides, *short])
    if parallel == "auto":
        return planning.automatic(run, processes)
    return dataclasses.replace(run, parallel=Plan.parse(parallel)) if parallel else run
