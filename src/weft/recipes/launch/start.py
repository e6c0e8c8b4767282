"""From what the user asked for to a started run, or to the text that starts it elsewhere."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.core.errors import ResourceError, UsageError
from weft.core.files import write_text_atomic
from weft.recipes.launch import hosts, kubernetes, on_ray, slurm
from weft.recipes.launch.agents import SSH, Agents
from weft.recipes.launch.hosts import Host
from weft.recipes.launch.job import PORT, Job, spread
from weft.train.config import TrainRun

Say = Callable[[str], Any]
HERE = (Host("localhost"),)


@dataclass(frozen=True)
class Wish:
    """The options of ``weft launch``, as they were given; see its help."""

    processes: int | None = None
    hosts: str | None = None
    hostfile: Path | None = None
    only_print: bool = False
    slurm: Path | None = None
    submit: bool = False
    sbatch: tuple[str, ...] = ()
    kubernetes: Path | None = None
    image: str = ""
    claim: str = ""
    name: str = "weft"
    ray: str | None = None
    nodes: int | None = None
    min_nodes: int | None = None
    gpus: bool = False
    restarts: int = 3
    port: int | None = None
    directory: Path | None = None
    python: str | None = None
    ssh: str | None = None
    rejoin: float = 30.0
    env: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        forms = {"--hosts": self.hosts, "--hostfile": self.hostfile, "--slurm": self.slurm}
        forms |= {"--kubernetes": self.kubernetes, "--ray": self.ray}
        given = [name for name, value in forms.items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are different ways to start a run; give one of them.")
        one = given[0] if given else "processes on this machine"
        for option, belongs, value in (
            ("--submit", ("--slurm",), self.submit),
            ("--sbatch", ("--slurm",), self.sbatch),
            ("--image", ("--kubernetes",), self.image),
            ("--claim", ("--kubernetes",), self.claim),
            ("--gpus", ("--slurm", "--kubernetes", "--ray"), self.gpus),
            ("--nodes", ("--slurm", "--kubernetes", "--ray"), self.nodes is not None),
            ("--ssh", ("--hosts", "--hostfile"), self.ssh),
            ("--min-nodes", tuple(forms), self.min_nodes is not None),
        ):
            if value and one not in belongs:
                raise UsageError(f"{option} means nothing for {one}; it goes with {' or '.join(belongs)}.")
        if self.nodes is not None and self.nodes < 1:
            raise UsageError(f"--nodes {self.nodes} must be at least 1.")
        if self.port is not None and not 0 < self.port < 65536:
            raise UsageError(f"--port {self.port} must lie between 1 and 65535.")


def start(
    wish: Wish, training: tuple[str, ...], run: TrainRun, out: Path, say: Say = print
) -> dict[str, Any]:
    """Do what ``wish`` says with the training command and return what was done.

    Raises UsageError and ConfigError before anything starts, and the fault that ended a started run.
    """
    places = _places(wish)
    nodes = len(places) if places else wish.nodes or 1
    per_node = spread(wish.processes, run.parallel, nodes)
    if wish.min_nodes is not None and wish.min_nodes < nodes and run.train.elastic == "none":
        raise UsageError(
            f"--min-nodes {wish.min_nodes} lets the number of processes change, but the plan is fixed; set "
            "train.elastic=dp, or fsdp."
        )
    job = Job(
        training=training,
        out=out,
        nodes=nodes,
        least=nodes if wish.min_nodes is None else wish.min_nodes,
        per_node=per_node,
        restarts=wish.restarts,
        # An image has its own; hosts that share the run folder mostly share the environment too.
        python=wish.python or ("python" if wish.kubernetes else sys.executable),
        directory=wish.directory or Path.cwd(),
        variables=_variables(wish.env),
    )
    done = {"processes": job.processes, "nodes": job.nodes, "name": job.name}
    if wish.slurm is not None:
        return done | _slurm(wish, job, wish.slurm, say)
    if wish.kubernetes is not None:
        text = kubernetes.manifest(
            job, image=wish.image, claim=wish.claim, gpus=wish.gpus, name=wish.name, port=wish.port or PORT
        )
        write_text_atomic(wish.kubernetes, text)
        say(
            f"written: {wish.kubernetes}; start it with: kubectl apply -f {shlex.quote(str(wish.kubernetes))}"
        )
        return done | {"file": str(wish.kubernetes)}
    if wish.ray is not None:
        on_ray.run(job, wish.ray, gpus=wish.gpus)
        return done
    ssh = tuple(shlex.split(wish.ssh)) if wish.ssh else SSH
    agents = Agents(job, places, wish.port or (_free_port() if places[0].here else PORT), ssh, wish.rejoin)
    if wish.only_print:
        for text in agents.lines():
            say(text)
        return done | {"commands": agents.lines()}
    agents.run()
    return done


def _places(wish: Wish) -> tuple[Host, ...]:
    """The hosts that this process reaches itself; none when another program chooses them."""
    if wish.hosts is not None:
        return hosts.listed(wish.hosts)
    if wish.hostfile is not None:
        return hosts.from_file(wish.hostfile)
    return () if wish.slurm or wish.kubernetes or wish.ray else HERE


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            raise UsageError(f"--env {name!r} is not NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _slurm(wish: Wish, job: Job, file: Path, say: Say) -> dict[str, Any]:
    text = slurm.script(job, gpus=wish.gpus, directives=wish.sbatch, port=wish.port or PORT)
    write_text_atomic(file, text)
    # Slurm makes no folder for the log that it opens before the script runs.
    job.logs.mkdir(parents=True, exist_ok=True)
    if not wish.submit:
        say(f"written: {file}; submit it with: sbatch {shlex.quote(str(file))}")
        return {"file": str(file)}
    if shutil.which("sbatch") is None:
        raise ResourceError(f"{file} is written, but there is no sbatch here; submit it where Slurm is.")
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(f"sbatch refused {file}: {done.stderr.strip()}.")
    say(f"submitted as job {done.stdout.strip()}")
    return {"file": str(file), "slurm_job": done.stdout.strip()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
