"""What this process may use of the machine: cores, memory, instruction sets. No torch here.

Containers are the reason for this file: ``os.cpu_count()`` counts cores that an affinity mask or a
cgroup quota forbids, and threads beyond the quota slow everything down.
"""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_WANTED = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Machine:
    """A probe of this machine as this process sees it."""

    processor: str
    cores: int
    memory_bytes: int
    instruction_sets: tuple[str, ...]

    def describe(self) -> str:
        """One line for people."""
        sets = ", ".join(self.instruction_sets) or "no vector extensions known"
        return f"{self.processor}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB, {sets}"


def probe() -> Machine:
    """Read affinity, cgroup limits and /proc; never fails, unknown parts are left general."""
    name, flags = _cpuinfo()
    return Machine(
        processor=name or platform.processor() or platform.machine(),
        cores=usable_cores(),
        memory_bytes=usable_memory(),
        instruction_sets=tuple(flag for flag in _WANTED if flag in flags),
    )


def usable_cores() -> int:
    """Cores this process may run on: affinity mask, cut by the cgroup CPU quota, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quota = _cgroup_quota()
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def usable_memory() -> int:
    """Bytes of memory: physical, cut by the cgroup limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max") or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    return min(total, int(limit)) if limit.isdigit() else total


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cgroup_quota() -> float | None:
    v2 = _read("/sys/fs/cgroup/cpu.max").split()
    v1 = [_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    for numbers in (v2, v1):
        # "max" and -1 mean no limit.
        if len(numbers) == 2 and all(part.isdigit() for part in numbers) and int(numbers[1]):
            return int(numbers[0]) / int(numbers[1])
    return None


def _cpuinfo() -> tuple[str, frozenset[str]]:
    name, flags = "", frozenset[str]()
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = frozenset(value.split())
            break
    return name, flags


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
