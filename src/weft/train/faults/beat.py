"""The heartbeat of a rank: a small file that says, every second, where it is and that it lives."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = socket.gethostname()


@dataclass(frozen=True)
class Beat:
    """One rank at one moment.

    ``round``: the start that it belongs to; ``step``: the one in progress, from 1; ``count`` grows while the
    process lives; ``still``: seconds since it last moved; ``ended``: its last words.
    """

    rank: int
    round: str
    step: int = 0
    collective: str = ""
    place: str = ""
    count: int = 0
    still: float = 0.0
    ended: str = ""
    host: str = HERE
    process: int = field(default_factory=os.getpid)

    @property
    def where(self) -> str:
        """For people."""
        if not self.place:
            return self.collective or "code that is not ours"
        return f"{self.collective} ({self.place})" if self.collective else self.place

    def write(self, folder: Path) -> None:
        """Replace the file of this rank. A full or slow disk must not stop training: errors are let pass."""
        file = folder / f"rank-{self.rank:05d}.json"
        temporary = file.with_suffix(f".{self.process}.tmp")
        try:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
            temporary.replace(file)
        except OSError:
            pass

    def alive(self, later: Beat | None) -> bool:
        """Whether its process lives, judged by the process on this host and else by a ``later`` beat."""
        if self.ended:
            return True
        if self.host == HERE:
            return running(self.process)
        return later is not None and later.count > self.count


def running(process: int) -> bool:
    """Whether a process of this host exists and is not a zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] not in "ZX"


def read(folder: Path, round: str) -> dict[int, Beat]:
    """The newest beat of each rank of this ``round``."""
    found = {}
    for file in folder.glob("rank-*.json"):
        try:
            beat = Beat(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if beat.round == round:
            found[beat.rank] = beat
    return found
