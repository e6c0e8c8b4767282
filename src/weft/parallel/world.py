"""The processes of a run: who this one is, and the group it joins. Started by torchrun, or alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from weft.core.errors import ResourceError

TIMEOUT = timedelta(minutes=10)
"""How long a collective waits for a rank before the run is called hung."""


@dataclass(frozen=True)
class World:
    """``rank`` of ``size`` processes, ``local_rank`` of ``local_size`` on this host, on a ``device``."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def barrier(self) -> None:
        """Wait for all."""
        if not self.alone:
            dist.barrier()


def declared() -> int:
    """Number of processes that the launcher started (torchrun's WORLD_SIZE), 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def joined(device: torch.device, timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """The world of this process, as torchrun's environment variables say it; left again at the end.

    ``device`` names the kind: each process takes the GPU of its local rank. A process group that exists
    already is used and kept. Raises ResourceError when the others cannot be reached.
    """
    numbers = [int(os.environ.get(name, default)) for name, default in _VARIABLES]
    rank, size, local_rank, local_size = numbers
    if device.type == "cuda" and size > 1:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    world = World(rank, size, local_rank, local_size, device)
    if world.alone or dist.is_initialized():
        yield world
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"Rank {rank} of {size} could not join the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: {error}"
        ) from error
    try:
        yield world
    finally:
        dist.destroy_process_group()


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
