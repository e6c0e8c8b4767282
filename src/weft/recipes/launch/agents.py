"""The agents of a run, one a host: started, watched, started again on a host that came back, stopped.

Each is a shell on its host (through ssh, unless the host is this machine) that runs torchrun until either
torchrun ends or the shell's input is closed. So nothing is left behind when this process, or the connection,
dies: torchrun is told to stop, and its processes finish their step and save.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, TextIO

from weft.core.errors import Interrupted, ResourceError
from weft.core.files import disk_errors
from weft.recipes.launch import outcome
from weft.recipes.launch.hosts import Host
from weft.recipes.launch.job import Job

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
"""How a host is reached: never asking for a password, and noticing within 15 s that it is gone."""

SHOWN = "[rank 0] "
"""How the lines begin that the console gets."""
_LOST = (255, 128 + signal.SIGKILL)
"""Codes that say the host or its agent is gone, not that training failed: ssh's own, and a killed agent's."""


@dataclass
class Agent:
    """torchrun on one host, and the threads that carry what it says."""

    host: Host
    process: subprocess.Popen[bytes]
    readers: list[threading.Thread] = field(default_factory=list)
    lost_at: float = 0.0
    tries: int = 0

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    @property
    def lost(self) -> bool:
        """Whether the host or the agent has gone away."""
        return self.code is not None and (self.code in _LOST or self.code < 0)

    def stop(self) -> None:
        """Ask torchrun to stop, by closing the shell's input."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            # The shell may have ended already.
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def wait(self) -> None:
        """Until it has ended and all it said is written."""
        self.process.wait()
        self.stop()
        for reader in self.readers:
            reader.join()


@dataclass
class Agents:
    """All agents of ``job``, on ``hosts``. ``rejoin``: seconds until a lost host is tried again."""

    job: Job
    hosts: Sequence[Host]
    port: int
    ssh: Sequence[str] = SSH
    rejoin: float = 30.0
    stopped: bool = False
    words: str = ""
    told: str = ""

    def run(self) -> None:
        """Until training has ended on enough hosts.

        When the host where the agents met is lost, they are started again on the others. Raises the fault
        that ended the run (:mod:`outcome`), and Interrupted after a signal.
        """
        hosts, left = list(self.hosts), self.job.restarts
        with _signals(self):
            while True:
                agents = self._round(hosts)
                ended = [agent for agent in agents if not agent.lost]
                if len(ended) >= self.job.least and all(agent.code == 0 for agent in ended):
                    return
                if self.stopped:
                    raise Interrupted(self.words or "Interrupted; run the same command again to continue.")
                gone = [agent.host for agent in agents if agent.lost]
                if not gone or not left or outcome.final(self.job):
                    raise outcome.fault(self.job, {agent.host.name: agent.code or 0 for agent in agents})
                left -= 1
                hosts = self._without(hosts, gone)

    def _without(self, hosts: list[Host], gone: list[Host]) -> list[Host]:
        """The hosts to begin again on: those that are left if they are enough, else all, a little later."""
        names = ", ".join(host.name for host in gone)
        if len(hosts) - len(gone) >= self.job.least:
            _say(f"continuing without {names}")
            return [host for host in hosts if all(host is not other for other in gone)]
        _say(f"{names} went away; trying all hosts again in {self.rejoin:g} s")
        deadline = time.monotonic() + self.rejoin
        while time.monotonic() < deadline and not self.stopped:
            time.sleep(0.1)
        return hosts

    def lines(self) -> list[str]:
        """What a person would type on each host, with its name as a comment before it."""
        return [f"# {h.name}\n{self.job.printed(self._line(h, self.hosts[0]))}" for h in self.hosts]

    def _line(self, host: Host, leader: Host) -> list[str]:
        where, own = ("127.0.0.1" if place.here else place.name for place in (leader, host))
        return self.job.torchrun(f"{where}:{self.port}", host=own, settings={"is_host": int(host is leader)})

    def _round(self, hosts: Sequence[Host]) -> list[Agent]:
        agents = [self._start(host, hosts[0]) for host in hosts]
        while any(agent.code is None for agent in agents):
            time.sleep(0.1)
            self._tell()
            for index, agent in enumerate(agents):
                if not self.stopped and self._returns(agent, hosts[0]):
                    again = self._start(agent.host, hosts[0])
                    again.tries = agent.tries + 1
                    agent.wait()
                    agents[index] = again
            # Torchrun would try again what must fail again.
            if self.stopped or outcome.final(self.job):
                for agent in agents:
                    agent.stop()
        for agent in agents:
            agent.wait()
        return agents

    def _tell(self) -> None:
        """Say why the processes are started again, once for each fault."""
        found = outcome.passing(self.job)
        if found is not None and found != self.told:
            self.told = found
            _say(f"{found} The processes are started again.")

    def _returns(self, agent: Agent, leader: Host) -> bool:
        """Whether a lost agent shall be tried again now; without the leader there is nothing to join."""
        if not agent.lost or agent.host is leader or agent.tries >= self.job.restarts:
            return False
        agent.lost_at = agent.lost_at or time.monotonic()
        return time.monotonic() - agent.lost_at > self.rejoin

    def _start(self, host: Host, leader: Host) -> Agent:
        text = self.job.watched(self._line(host, leader))
        command = ["sh", "-c", text] if host.here else [*self.ssh, host.login, shlex.join(["sh", "-c", text])]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C reaches this process only, which then stops all hosts alike.
                start_new_session=True,
            )
        except OSError as error:
            raise ResourceError(f"{command[0]} cannot be started ({error}); check --ssh.") from None
        agent, log = Agent(host, process), outcome.agent_log(self.job, host.name)
        with disk_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
        assert process.stdout is not None and process.stderr is not None
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            reader = threading.Thread(target=self._carry, args=(source, target, log), daemon=True)
            reader.start()
            agent.readers.append(reader)
        return agent

    def _carry(self, source: IO[bytes], target: TextIO, log: Path) -> None:
        """What rank 0 says to the console, what the agent itself says to its log.

        An error of rank 0 is not shown: this process ends with the error of the run, which may be another's.
        """
        with source, log.open("a", encoding="utf-8") as file:
            for raw in source:
                line = raw.decode("utf-8", "replace")
                if line.startswith(SHOWN + "weft: "):
                    self.words = line.removeprefix(SHOWN + "weft: ").strip()
                elif line.startswith(SHOWN):
                    target.write(line.removeprefix(SHOWN))
                    target.flush()
                elif not line.startswith("[rank "):
                    file.write(line)
                    file.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"weft launch: {text}\n")
    sys.stderr.flush()


class _signals:
    """Ctrl-C and SIGTERM stop the agents; a second one interrupts at once."""

    def __init__(self, agents: Agents):
        self._agents = agents

    def __enter__(self) -> None:
        numbers = (signal.SIGINT, signal.SIGTERM)
        main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._note) for number in numbers if main}

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._agents.stopped:
            raise KeyboardInterrupt
        self._agents.stopped = True
