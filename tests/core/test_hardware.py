"""The probe believes the limits of the container, and never fails."""

from __future__ import annotations

import os

import pytest

from weft.core import hardware


def pretend(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    monkeypatch.setattr(hardware, "_read", lambda path: files.get(path, ""))


def test_probe_of_this_machine() -> None:
    machine = hardware.probe()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes > 2**20
    assert f"{machine.cores} cores" in machine.describe()
    assert hardware.peak_memory() > 2**20


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "10000 100000"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "strange text"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "100000 0"}, 8),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 8),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
    ],
)
def test_quotas(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    pretend(monkeypatch, files)
    assert hardware.usable_cores() == cores


def test_memory_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text, expected in (("max", whole), ("1048576", 2**20), ("9223372036854771712", whole), ("", whole)):
        pretend(monkeypatch, {"/sys/fs/cgroup/memory.max": text})
        assert hardware.usable_memory() == expected


def test_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"/proc/cpuinfo": "model name\t: CPU\nflags\t\t: fpu avx2 amx_bf16\n"})
    machine = hardware.probe()
    assert (machine.processor, machine.instruction_sets) == ("CPU", ("avx2", "amx_bf16"))
    pretend(monkeypatch, {})
    assert hardware.probe().instruction_sets == ()
    assert "no vector extensions known" in hardware.probe().describe()
