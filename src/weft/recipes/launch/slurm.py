"""A batch script for Slurm: one agent a node, which starts the processes of that node."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from weft.core.errors import UsageError
from weft.recipes.launch.job import PORT, Job

GRACE = 120
"""Seconds before the time limit at which the processes are told to save and stop."""


def script(job: Job, *, gpus: bool, directives: Sequence[str] = (), port: int = PORT) -> str:
    """The text of the script; ``directives`` are further options of sbatch, such as ``--partition=a``."""
    for directive in directives:
        if not directive.startswith("--") or "\n" in directive:
            raise UsageError(f"--sbatch {directive!r} must be one option of sbatch, such as --partition=gpu.")
    head = [
        "--job-name=weft",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        # All processors of a node belong to its one task.
        "--exclusive",
        f"--output={job.logs}/slurm-%j.log",
        f"--signal=TERM@{GRACE}",
        "--requeue",
        *([f"--gpus-per-node={job.per_node}"] if gpus else []),
        # A lost node must not take the job along when fewer are enough.
        *(["--no-kill"] if job.least < job.nodes else []),
        *directives,
    ]
    line = job.torchrun(f"$first:{port}", settings={"is_host": "$host"})
    line[line.index("--rdzv-id") + 1] = "$SLURM_JOB_ID"
    body = [job.threads(), "host=$(( SLURM_NODEID == 0 ))", "exec " + job.expanding(line)]
    place, *exports, _ = job.setting()
    bad = int(job.least == job.nodes)
    return "\n".join(
        [
            "#!/bin/bash",
            "# Written by weft launch. Submitted again, it continues the run from its newest checkpoint.",
            *(f"#SBATCH {option}" for option in head),
            f"{place} || exit 1",
            *exports,
            'export first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"srun --kill-on-bad-exit={bad} bash -c {shlex.quote(chr(10).join(body))}",
            "",
        ]
    )
