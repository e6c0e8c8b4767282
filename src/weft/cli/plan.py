"""``weft plan RUN.toml --on "8 x h100"``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli.command import Record, run_file_or_setting, weft_command

if TYPE_CHECKING:
    from weft.parallel.planner.hardware import Cluster
    from weft.parallel.planner.job import Job


@weft_command("plan")
@click.argument("run_file", metavar="[RUN.toml]", required=False, type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--on",
    "machine",
    default="auto",
    show_default=True,
    help='"8 x h100", "64 x (8 x h100)", "4 x cpu", auto (this machine) or a hardware FILE.toml.',
)
@click.option("--model", metavar="FOLDER", help="A folder with a config.json; short for model.start=FOLDER.")
@click.option("--vocab", type=int, help="Tokens of the vocabulary, where no data folder says it.")
@click.option("--parallel", metavar="PLAN", help="Judge this layout alone, for instance fsdp=8,tp=2.")
@click.option("--fp8", is_flag=True, help="Plan for fp8 matrix products.")
@click.option("--top", default=10, show_default=True, help="Layouts to show.")
@click.option(
    "--price", type=float, metavar="MONEY", help="Of one device an hour; gives the cost of the run."
)
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@click.option("--html", type=click.Path(path_type=Path), help="Write the answer as a page with pictures.")
@click.option("--scale", type=int, metavar="DEVICES", help="Simulate growth up to so many devices.")
@click.option(
    "--trace", is_flag=True, help="Trace the winner's real model on fake tensors beside the formulas."
)
@click.option("--calibrate", is_flag=True, help="Measure this machine first (about two minutes, when idle).")
def command(
    run_file: Path | None, overrides: tuple[str, ...], machine: str, model: str | None, vocab: int | None,
    parallel: str | None, fp8: bool, top: int, price: float | None, lang: str, html: Path | None,
    scale: int | None, trace: bool, calibrate: bool,
) -> Record:  # fmt: skip
    """Which parallel technique fits my model and my machines: layouts ranked, with memory, time, reasons."""
    from weft.core import config
    from weft.core.errors import UsageError
    from weft.parallel.planner import choice, machines, picture, report
    from weft.parallel.planner.scaling import scaling
    from weft.train import planning
    from weft.train.config import TrainRun

    run_file, overrides = run_file_or_setting(run_file, overrides)
    if top < 1:
        raise UsageError(f"--top {top} must be at least 1.")
    short = [f"model.start={model}"] if model else []
    run = config.load(TrainRun, run_file, [*overrides, *short])
    clusters = machines.clusters_on(machine)
    dtype = "fp8" if fp8 else planning.dtype_on(run, clusters[0])
    if calibrate:
        _calibrate(dtype)
        if run_file is None and model is None and not overrides:
            return {"calibrated": dtype}
    if price is not None:
        priced = dataclasses.replace(clusters[0].device, price=price)
        clusters = [dataclasses.replace(cluster, device=priced) for cluster in clusters]
    job = planning.job_of(run, planning.shape_of(run, vocab), dtype)
    if parallel:
        return _one(parallel, job, clusters[0])
    found, every = choice.best_of(job, clusters, top=top)
    click.echo(report.text(found, "zh" if lang == "zh" else "en", prices=price is not None))
    if trace and found.ranked:
        words = choice.seen(found)
        click.echo("\n" + (words.zh if lang == "zh" else words.en))
    if len(every) > 1:
        click.echo("\n" + report.sizes(every, "zh" if lang == "zh" else "en"))
    points = scaling(job, found.world, scale) if scale and found.ranked else []
    if points:
        click.echo("\n" + report.scaling(points, "zh" if lang == "zh" else "en"))
    if html:
        picture.page(found, points).write(html)
    if not found.ranked:
        choice.refuse(found, lang)
    record = report.record(found)
    return record | {"scaling": [report.point(p) for p in points]} if points else record


def _one(text: str, job: Job, cluster: Cluster) -> Record:
    """One layout that the user names: refused with a way out, or foretold."""
    from weft.parallel.plan import Plan
    from weft.parallel.planner import choice, report

    plan = Plan.parse(text)
    if cluster.size != plan.size:
        cluster = (
            dataclasses.replace(cluster, per_node=plan.size) if cluster.cores else cluster.resized(plan.size)
        )
    prediction = choice.judged(job, plan, choice.world_of(cluster, job))
    click.echo(report.one(prediction))
    return report.entry(prediction)


def _calibrate(dtype: str) -> None:
    from weft.core.errors import UsageError
    from weft.parallel.planner import calibration
    from weft.parallel.planner.calibrate import calibrate

    if dtype == "fp8":
        raise UsageError("--calibrate measures bf16 or fp32; leave --fp8 out.")
    click.echo("measuring this machine; keep it idle", err=True)
    found = calibrate(dtype, ["weft.train.session"], lambda text: click.echo("  " + text, err=True))
    click.echo(f"saved {calibration.save(found)} after {found.seconds:.0f} s", err=True)
