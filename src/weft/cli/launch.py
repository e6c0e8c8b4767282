"""``weft launch --processes 4 -- train RUN.toml --parallel dp=2,tp=2``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.command import Record, weft_command
from weft.core.errors import UsageError

if TYPE_CHECKING:
    from weft.train.config import TrainRun

_FILE = click.Path(path_type=Path)


@weft_command("launch")
@click.argument("training", nargs=-1, metavar="-- train [RUN.toml] ...")
@click.option(
    "--processes", type=int, metavar="N", help="Processes in all; by default as many as the plan has."
)
@click.option("--hosts", metavar="A,B,C", help="Start a share on each of these hosts, over ssh.")
@click.option("--hostfile", type=_FILE, metavar="FILE", help="The same from a file, one host a line.")
@click.option("--print", "only_print", is_flag=True, help="Print the command of each host, start nothing.")
@click.option("--slurm", type=_FILE, metavar="FILE", help="Write a batch script for Slurm.")
@click.option("--submit", is_flag=True, help="Hand the script to sbatch.")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="An option of sbatch, such as --partition=a.")
@click.option("--kubernetes", type=_FILE, metavar="FILE", help="Write a manifest for Kubernetes.")
@click.option("--image", default="", help="The container image of the manifest.")
@click.option("--claim", default="", help="The volume claim mounted at --directory in every pod.")
@click.option("--name", default="weft", show_default=True, help="The name of the job in the manifest.")
@click.option("--ray", metavar="ADDRESS", help="Start on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")
@click.option("--nodes", type=int, metavar="N", help="Nodes for Slurm, Kubernetes and Ray.  [default: 1]")
@click.option(
    "--min-nodes", type=int, metavar="N", help="Go on with so few when nodes are lost; needs train.elastic."
)
@click.option("--gpus", is_flag=True, help="Ask Slurm, Kubernetes or Ray for a GPU a process.")
@click.option("--restarts", default=3, show_default=True, help="How often processes are started again.")
@click.option("--port", type=int, metavar="PORT", help="Where the agents meet on the first host.")
@click.option("--directory", type=_FILE, help="Where the command runs on every host.  [default: here]")
@click.option("--python", metavar="PROGRAM", help="Python on the hosts.  [default: as here]")
@click.option("--ssh", metavar="COMMAND", help="How a host is reached, for instance 'ssh -p 2222'.")
@click.option("--rejoin", default=30.0, show_default=True, help="Seconds until a lost host is tried again.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable for all processes.")
def command(training: tuple[str, ...], **options: Any) -> Record:
    """Start `weft train` on several processes: here, over ssh, with Slurm, Kubernetes or Ray.

    Everything after -- is the training command, as one would give it for a single process.
    """
    from weft.cli.train import command as train_command
    from weft.cli.train import requested
    from weft.recipes.launch.start import Wish, start

    if not training or training[0] != "train":
        raise UsageError("weft launch starts weft train; write for instance: weft launch -- train run.toml")
    # Read here as train itself will read it, so that a mistake is told before anything starts.
    chosen = dict(train_command.make_context("weft train", list(training[1:])).params)
    out = chosen.pop("out")
    chosen.pop("json_file")
    run = requested(**chosen, processes=options["processes"])
    if chosen["parallel"] == "auto":
        training = settled(training, run)
    record = start(Wish(**options), training, run, out, say=click.echo)
    return {"run": str(out), **record}


def settled(training: tuple[str, ...], run: TrainRun) -> tuple[str, ...]:
    """The training command with the layout that the planner chose in place of ``auto``, for all processes."""
    kept: list[str] = []
    words = iter(training)
    for word in words:
        if word == "--parallel":
            next(words)
        elif not word.startswith("--parallel="):
            kept.append(word)
    layout = str(run.parallel) if not run.parallel.alone else ""
    chosen = ["--parallel", layout] if layout else []
    click.echo(f"the planner chose {run.parallel}, {run.train.micro_rows} rows a micro-batch", err=True)
    return (*kept, f"train.micro_rows={run.train.micro_rows}", *chosen)
