"""What is started, whoever starts it: the training command, how many processes, and the torchrun line."""

from __future__ import annotations

import os
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weft.core.errors import UsageError
from weft.parallel.plan import Plan

PORT = 29400
"""Where the agents meet when nothing else is said; torchrun's own default."""

_FORWARDED = ("WEFT_", "NCCL_", "GLOO_", "TORCH_", "OMP_NUM_THREADS", "PYTHONPATH")
"""Environment variables (by prefix) that other hosts get from here."""

_ALWAYS = {
    # A restart would otherwise reuse the store of the agents, and often fails on its old port.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # The console shows rank 0 only, under the prefix that the other lines of the agent lack.
    "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
}


_EXPANDED = re.compile(r"[\w.:=-]*\$[\w.:=-]*")
_LIFELINE = """\
exec 3<&0
{line} </dev/null 3<&- & agent=$!
(cat <&3; kill -TERM $agent) >/dev/null 2>&1 & watcher=$!
wait $agent; code=$?
kill $watcher 2>/dev/null
exit $code"""


@dataclass(frozen=True)
class Job:
    """``training``: the arguments of ``weft``; ``nodes`` hosts, of which ``least`` are enough, with
    ``per_node`` processes each; ``restarts``: how often an agent starts its processes again.

    ``directory`` is where the command runs on every host, ``out`` the run folder (seen from there); both must
    lie on a file system that all hosts share, because checkpoints are read by all.
    """

    training: tuple[str, ...]
    out: Path
    nodes: int = 1
    least: int = 1
    per_node: int = 1
    restarts: int = 3
    python: str = "python"
    directory: Path = field(default_factory=Path.cwd)
    variables: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"weft-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        if self.restarts < 0:
            raise UsageError(f"--restarts {self.restarts} must be 0 or more.")
        for word in self.training:
            if not word.isprintable():
                raise UsageError(
                    f"The training argument {word!r} holds what no command line can; write it plainly."
                )
        if not 1 <= self.least <= self.nodes:
            raise UsageError(f"--min-nodes {self.least} must lie between 1 and the {self.nodes} nodes.")

    @property
    def processes(self) -> int:
        """Processes of all nodes together."""
        return self.nodes * self.per_node

    @property
    def logs(self) -> Path:
        """Where the agents keep what each rank writes: ``NAME_*/attempt_A/LOCAL_RANK/stderr.log``."""
        return self.out / "logs"

    def environment(self, *, elsewhere: bool = False) -> dict[str, str]:
        """What the agents need in their environment, beside what the host has itself.

        ``elsewhere``: the hosts have nothing in common with this one.
        """
        forwarded = {name: value for name, value in os.environ.items() if name.startswith(_FORWARDED)}
        return {**({} if elsewhere else forwarded), **_ALWAYS, **self.variables}

    def torchrun(
        self, endpoint: str, *, host: str = "", settings: Mapping[str, object] | None = None
    ) -> list[str]:
        """The line that starts one node's share.

        ``endpoint``: HOST:PORT where the agents meet; ``host``: the name by which others reach this node;
        ``settings``: further ones of the rendezvous (``is_host``, ...).
        """
        nodes = str(self.nodes) if self.least == self.nodes else f"{self.least}:{self.nodes}"
        line = [self.python, "-m", "torch.distributed.run", "--nnodes", nodes]
        line += ["--nproc-per-node", str(self.per_node), "--max-restarts", str(self.restarts)]
        line += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", self.name]
        if settings:
            line += ["--rdzv-conf", ",".join(f"{name}={value}" for name, value in settings.items())]
        if host:
            line += ["--local-addr", host]
        line += ["--log-dir", str(self.logs), "--redirects", "3", "--tee", "0:3"]
        return [*line, "--module", "weft", *self.training]

    def setting(self) -> list[str]:
        """Shell lines: the right place, and the environment."""
        variables = sorted(self.environment().items())
        exports = [f"export {name}={shlex.quote(value)}" for name, value in variables]
        return [f"cd {shlex.quote(str(self.directory))}", *exports, self.threads()]

    def watched(self, line: Sequence[str]) -> str:
        """Shell text that runs ``line`` until it ends or the shell's input is closed."""
        return "\n".join(["set -e", *self.setting(), "set +e", _LIFELINE.format(line=shlex.join(line))])

    def printed(self, line: Sequence[str]) -> str:
        """The same for a person to paste: one line, which leaves their shell as it was."""
        return f"({' && '.join([*self.setting(), shlex.join(line)])})"

    def expanding(self, line: Sequence[str]) -> str:
        """``line``, made by :meth:`torchrun`, for a shell in which our own ``$name`` is still expanded.

        The training arguments are the user's: not one character of them means anything to the shell.
        """
        own, theirs = line[: -len(self.training)], line[-len(self.training) :]
        words = [f'"{word}"' if _EXPANDED.fullmatch(word) else shlex.quote(word) for word in own]
        return " ".join([*words, *map(shlex.quote, theirs)])

    def threads(self) -> str:
        """Shell text: the cores of the host shared out over its processes, unless the user has said."""
        share = f"$(( $(nproc) > {self.per_node} ? $(nproc) / {self.per_node} : 1 ))"
        return f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{share}}}"


def spread(processes: int | None, plan: Plan, nodes: int) -> int:
    """Processes of each of ``nodes`` hosts; the plan says how many there are when ``processes`` does not.

    UsageError when they cannot be spread evenly.
    """
    total = plan.size if processes is None else processes
    if total < 1:
        raise UsageError(f"--processes {total} must be at least 1.")
    if total % nodes:
        what = f"The plan {plan} has {total}" if processes is None else f"--processes {total} are"
        raise UsageError(
            f"{what} processes, which {nodes} hosts cannot share evenly; change the plan, or give another "
            "number of hosts."
        )
    return total // nodes
