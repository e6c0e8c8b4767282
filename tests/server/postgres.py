"""A PostgreSQL of a test's own, which it may stop and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Postgres:
    """A server in a folder; ``address`` is what a store takes."""

    def __init__(self, programs: Path, home: Path):
        self._programs, self._home = programs, home
        # PostgreSQL refuses to run as root.
        self._account: dict[str, str] = {"user": "postgres"} if os.getuid() == 0 else {}
        self._process: subprocess.Popen[str] | None = None
        self.address = f"postgresql://weft@/postgres?host={home}"
        if self._account:
            try:
                shutil.chown(home, "postgres")
            except LookupError:
                pytest.skip("root may not run PostgreSQL, and there is no account for it")
        command = [str(programs / "initdb"), "-D", f"{home}/data", "-A", "trust", "-U", "weft", "-E", "UTF8"]
        subprocess.run(command, check=True, capture_output=True, cwd=home, **self._account)

    def start(self) -> None:
        command = [str(self._programs / "postgres"), "-D", f"{self._home}/data", "-k", str(self._home)]
        self._process = subprocess.Popen(
            [*command, "-h", ""], stderr=subprocess.PIPE, text=True, cwd=self._home, **self._account
        )
        for line in self._process.stderr:
            if "ready to accept" in line:
                return
        raise AssertionError("PostgreSQL did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate()
            self._process = None


def running(home: str) -> Iterator[Postgres]:
    """One that runs, where PostgreSQL's programs and the driver are installed."""
    pytest.importorskip("psycopg")
    found = [
        *map(Path, filter(None, [shutil.which("initdb")])),
        *Path("/usr/lib/postgresql").glob("*/bin/initdb"),
    ]
    if not found:
        pytest.skip("PostgreSQL's programs are not installed")
    server = Postgres(found[0].resolve().parent, Path(home))
    server.start()
    try:
        yield server
    finally:
        server.stop()
