"""Processes that stay: a group of ranks started once, to which tests send functions."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

PATIENCE = timedelta(minutes=3)
"""Ranks that wait for one that failed give up after this."""


class Ranks:
    """``size`` gloo processes on this machine; ``run`` calls a function of a module on each of them.

    They are started when they are needed. After ``CALLS`` calls others take their place, for the threads of
    the groups that are gone go on polling, some fifty a process.
    """

    CALLS = 60

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self._folder = size, folder
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.Process] = []
        self._calls = self._starts = 0

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The results by rank; AssertionError with the trace of the first rank that failed."""
        if self._calls == self.CALLS:
            self.close()
        if not self._processes:
            self._start()
        self._calls += 1
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = [pipe.recv() for pipe in self._pipes]
        failed = [(rank, text) for rank, (fine, text) in enumerate(answers) if not fine]
        assert not failed, f"rank {failed[0][0]} of {self.size}: {failed[0][1]}"
        return [result for _, result in answers]

    def _start(self) -> None:
        self._starts += 1
        store = self._folder / f"store-{self.size}-{self._starts}"
        context = multiprocessing.get_context("spawn")
        for rank in range(self.size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, self.size, str(store)), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def close(self) -> None:
        """End the processes; the next call starts others."""
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._pipes, self._processes, self._calls = [], [], 0


def _serve(pipe: Connection, rank: int, size: int, store: str) -> None:
    import torch
    from torch.distributed.tensor import _redistribute
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache

    torch.set_num_threads(1)
    local = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in local.items()})
    for call in itertools.count():
        function, arguments = pipe.recv()
        # Groups of each call are given up with it: every one has threads that wait in a loop.
        dist.init_process_group(
            "gloo", init_method=f"file://{store}-{call}", rank=rank, world_size=size, timeout=PATIENCE
        )
        try:
            answer = (True, function(*arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        if answer[0]:
            # Nobody closes connections that another still uses; one that failed does, and so ends the wait.
            with contextlib.suppress(RuntimeError):
                dist.barrier()
        dist.destroy_process_group()
        # DTensor remembers how to redistribute by a mesh's shape, and with it the groups that are gone.
        _redistribute.clear_redistribute_planner_cache()
        _redistribute._gen_transform_infos.cache_clear()
        _clear_sharding_prop_cache()
        gc.collect()
        pipe.send(answer)


def slow(*values: Any) -> list[Any]:
    """Parameters of a test that only ``pytest -m slow`` runs; others of their kind run always."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]
