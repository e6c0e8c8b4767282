"""``weft tune``: the batch size and the learning rate, by measurement."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.command import Record, run_file_or_setting, weft_command
from weft.core.errors import UsageError

if TYPE_CHECKING:
    from weft.recipes.tune.workbench import Workbench


@click.group("tune")
def command() -> None:
    """Choose batch size and learning rate by measurement, and write them into the run file."""


@weft_command("batch")
@click.argument("run_file", metavar="[RUN.toml]", required=False, type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--steps", default=40, show_default=True, help="Steps over which the noise is measured.")
@click.option("--most-rows", default=256, show_default=True, help="Rows of a micro-batch to try at most.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with the pictures there.")
@click.option(
    "--write/--no-write", default=True, show_default=True, help="Into the run file, if there is one."
)
def batch(
    run_file: Path | None,
    overrides: tuple[str, ...],
    steps: int,
    most_rows: int,
    report: Path | None,
    write: bool,
) -> Record:
    """The largest micro-batch that fits, and the batch size from the noise of the gradient."""
    from weft.recipes.tune.micro import largest_micro
    from weft.recipes.tune.noise import batch_tokens, noise_scale
    from weft.recipes.tune.report import batch_report

    _positive("--steps", steps)
    _positive("--most-rows", most_rows)
    run_file, bench = _open(run_file, overrides)
    _say("micro-batch: rows that fit, and what they give")
    micro = largest_micro(bench, _say, most_rows)
    _say(f"  {micro.largest} rows fit ({micro.reason}); {micro.chosen} are as fast as any")
    _say("critical batch size: noise of the gradient")
    noise = noise_scale(bench, steps, _say)
    if not math.isfinite(noise.last):
        raise UsageError(
            f"The gradient was all noise in {steps} steps, so no batch size follows; give more --steps."
        )
    tokens = batch_tokens(noise.last, bench.length)
    rows = min(micro.chosen, tokens // bench.length)
    values: dict[str, Any] = {"train.batch_tokens": tokens, "train.micro_rows": rows}
    if report is not None:
        batch_report(report, micro, noise, tokens)
    _settle(run_file if write else None, values)
    trials = [dataclasses.asdict(trial) for trial in micro.trials]
    return {**values, "noise_scale": noise.last, "largest_micro_rows": micro.largest, "trials": trials}


@weft_command("lr")
@click.argument("run_file", metavar="[RUN.toml]", required=False, type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--width", type=int, help="Measure on a model so wide, and carry the rate over by muP.")
@click.option("--test-steps", default=100, show_default=True, help="Steps of the range test.")
@click.option("--run-steps", default=60, show_default=True, help="Steps of each short run.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page with the pictures there.")
@click.option(
    "--write/--no-write", default=True, show_default=True, help="Into the run file, if there is one."
)
def rate(
    run_file: Path | None,
    overrides: tuple[str, ...],
    width: int | None,
    test_steps: int,
    run_steps: int,
    report: Path | None,
    write: bool,
) -> Record:
    """The learning rate: a range test, then short runs around it decide."""
    from weft.recipes.tune.rates import best_rate
    from weft.recipes.tune.report import rate_report
    from weft.train import dial

    for name, value in (("--width", width), ("--test-steps", test_steps), ("--run-steps", run_steps)):
        _positive(name, value)
    run_file, bench = _open(run_file, overrides, width)
    length = bench.length
    tokens = bench.run.train.batch_tokens or dial.batch_tokens(4e6, length)
    rows = max(1, tokens // length)
    micro = bench.run.train.micro_rows or max(1, min(tokens, dial.MICRO_POSITIONS) // length)
    choice = best_rate(
        bench,
        _say,
        test_steps=test_steps,
        run_steps=run_steps,
        batch_rows=rows,
        micro_rows=min(micro, rows),
        width=width,
    )
    values: dict[str, Any] = {"optimizer.learning_rate": choice.chosen}
    if width is not None:
        values["optimizer.base_width"] = width
    if report is not None:
        rate_report(report, choice)
    _settle(run_file if write else None, values)
    return {**values, "runs": {f"{k:g}": v for k, v in choice.runs.items()}, "width": choice.width}


command.add_command(batch)
command.add_command(rate)


def _open(
    run_file: Path | None, overrides: tuple[str, ...], width: int | None = None
) -> tuple[Path | None, Workbench]:
    from weft.core import config
    from weft.recipes.tune.workbench import Workbench
    from weft.train.config import TrainRun

    run_file, overrides = run_file_or_setting(run_file, overrides)
    if width is not None:
        overrides = (*overrides, f"optimizer.base_width={width}")
    return run_file, Workbench.open(config.load(TrainRun, run_file, overrides))


def _settle(run_file: Path | None, values: dict[str, Any]) -> None:
    from weft.core.runfile import write_values

    settings = ", ".join(f"{name} = {value}" for name, value in values.items())
    if run_file is None:
        click.echo(settings)
        return
    write_values(run_file, values)
    click.echo(f"{settings} (written into {run_file})")


def _positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{name} {value} must be at least 1.")


def _say(text: str) -> None:
    click.echo(text, err=True)
