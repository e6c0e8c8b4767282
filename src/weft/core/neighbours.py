"""How much of this process's cores other processes use, from two readings of /proc/stat. No torch here."""

from __future__ import annotations

import os
import time
from pathlib import Path

from weft.core.hardware import usable_cores

_IDLE = (3, 4)
_STOLEN = 8
"""Counts of a ``cpu`` line of /proc/stat (proc_stat(5)): idle and waiting for a disk; the eighth, what a host
gave to others, is the last that counts, for the later ones are contained in the first ones."""


class Neighbours:
    """Watches from its making on; what this process computes in the meantime is not counted."""

    def __init__(self) -> None:
        self._began = _reading()

    def cores(self) -> float | None:
        """How many of the cores that this process may use the others kept busy, on average.

        Where a quota leaves it fewer cores than it may run on, others take those first that it does not need.
        None where nobody can tell: without /proc, or within the first twentieth of a second.
        """
        now = _reading()
        if self._began is None or now is None or now[0] - self._began[0] < 0.05:
            return None
        wall, busy, own = (late - early for late, early in zip(now, self._began, strict=True))
        usable = usable_cores()
        spare = len(os.sched_getaffinity(0)) - usable
        return min(max((busy - own) / wall - spare, 0.0), float(usable))


def advice(busy: float, cores: int, threads: int) -> str | None:
    """What to tell somebody who computes with ``threads`` on ``cores`` of which others use ``busy``.

    None where each thread has a core, and for a single one.
    """
    free = cores - busy
    if threads < 2 or threads - free < 0.3:
        return None
    return (
        f"other processes use {busy:.1f} of the {cores} cores; threads that share a core wait for each "
        f"other, and a step can take many times as long: stop the others, or set "
        f"OMP_NUM_THREADS={max(1, int(free))}"
    )


def _reading() -> tuple[float, float, float] | None:
    """Seconds: the clock's, those that the cores of this process were busy, those that it computed itself."""
    try:
        wanted = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
        ticks = sum(
            int(count)
            for name, *counts in lines
            if name in wanted
            for place, count in enumerate(counts[:_STOLEN])
            if place not in _IDLE
        )
    except (AttributeError, OSError, ValueError):
        return None
    return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()
