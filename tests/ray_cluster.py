"""A Ray cluster of two nodes on this machine, for the tests of what runs on one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PORT, _CLIENT = 26399, 26301


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[str]:
    """The address for clients of two ``ray start`` processes with one processor each.

    Logs go to ``folder``, as does the process number of the second node (``second``).
    """
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    # A token that an earlier local cluster left would be asked for, but not sent.
    environment = {"RAY_AUTH_MODE": "disabled", **os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    common = ["--num-cpus", "1", "--object-store-memory", "200000000", "--disable-usage-stats", "--block"]
    head = ["--head", "--port", str(_PORT), "--ray-client-server-port", str(_CLIENT)]
    starts = [
        [*head, "--include-dashboard=false", "--temp-dir", f"/tmp/ray-{os.getpid()}"],
        ["--address", f"127.0.0.1:{_PORT}"],
    ]
    nodes = []
    for start in starts:
        with (folder / f"node{len(nodes)}.log").open("wb") as log:
            nodes.append(
                subprocess.Popen(
                    [*ray, "start", *start, *common],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            )
        time.sleep(8)
        assert nodes[-1].poll() is None, (folder / f"node{len(nodes) - 1}.log").read_text()
    (folder / "second").write_text(str(nodes[1].pid))
    try:
        yield f"ray://127.0.0.1:{_CLIENT}"
    finally:
        for node in reversed(nodes):
            kill(node.pid)
            node.wait()


def kill(leader: int) -> None:
    """SIGKILL for a node: every process of its session."""
    for _ in range(3):
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(entry.name)) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.2)
