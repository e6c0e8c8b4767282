"""What other processes use is told from what this one does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weft.core import neighbours
from weft.core.neighbours import Neighbours, advice

SPIN = "while True: pass"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float]]:
    """Pairs of readings that a test names; four cores may be run on and a quota allows two."""
    given: list[tuple[float, float, float]] = []
    monkeypatch.setattr(neighbours, "_reading", lambda: given.pop(0))
    monkeypatch.setattr(neighbours, "usable_cores", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    return given


@pytest.mark.parametrize(
    ("busy", "own", "found"),
    [(5.0, 1.0, 2.0), (3.5, 1.0, 0.5), (2.0, 1.0, 0.0), (0.9, 1.0, 0.0), (1.0, 0.0, 0.0)],
)
def test_only_cores_that_this_process_needs_count(
    readings: list[tuple[float, float, float]], busy: float, own: float, found: float
) -> None:
    readings += [(10.0, 100.0, 7.0), (11.0, 100.0 + busy, 7.0 + own)]
    assert Neighbours().cores() == pytest.approx(found)


def test_too_short_a_time_tells_nothing(readings: list[tuple[float, float, float]]) -> None:
    readings += [(10.0, 100.0, 7.0), (10.01, 100.01, 7.0)]
    assert Neighbours().cores() is None


def test_a_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_reading", lambda: None)
    assert Neighbours().cores() is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux has /proc/stat")
def test_a_real_neighbour_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    monkeypatch.setattr(neighbours, "usable_cores", lambda: 1)
    other = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        time.sleep(0.1)
        watch, until = Neighbours(), time.monotonic() + 0.5
        while time.monotonic() < until:
            pass
        found = watch.cores()
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, before)
    assert found is not None and found > 0.1


def test_the_advice_names_the_threads_that_are_left() -> None:
    said = advice(1.2, 4, 4)
    assert said is not None and "1.2 of the 4 cores" in said and said.endswith("OMP_NUM_THREADS=2")
    assert str(advice(2.0, 2, 2)).endswith("OMP_NUM_THREADS=1")
    # Whoever follows it is not told again.
    assert advice(1.2, 4, 2) is None
    assert advice(3.0, 8, 4) is None
    assert advice(0.1, 4, 4) is None
    assert advice(2.0, 2, 1) is None
