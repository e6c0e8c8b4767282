"""How many threads a process takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from weft.core.hardware import usable_cores
from weft.ops.arithmetic import share_cores


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("asked", "ranks", "processes", "threads"),
    [
        ("1", "1", 1, 1),
        ("4096", "1", 1, usable_cores()),
        ("", "1", 1, usable_cores()),
        ("0", "1", 1, usable_cores()),
        ("many", "1", 1, usable_cores()),
        # What torchrun says of several processes is no wish of anybody's.
        ("1", "2", 1, usable_cores()),
        ("1", "2", 2, max(1, usable_cores() // 2)),
        ("", "4096", 4096, 1),
    ],
)
def test_threads_are_those_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str, ranks: str, processes: int, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    share_cores(processes)
    assert torch.get_num_threads() == threads
