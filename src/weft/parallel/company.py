"""Ranks that do one thing together on the host's side, and of which none is left waiting when one fails.

They talk over a gloo group of their own, so that a thread that writes a checkpoint never comes between the
collectives of training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from weft.core.errors import CheckpointError, ResourceError, WeftError
from weft.core.files import atomic_directory, disk_errors

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
"""A rank that died is noticed at once; a slow disk may take long."""


@dataclass(frozen=True)
class Company:
    """``group``: gloo, over all processes; None for one process."""

    group: dist.ProcessGroup | None = None

    @classmethod
    def gather(cls) -> Company:
        """All processes of the run, with a group of their own; every rank must call it."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.new_group(backend="gloo", timeout=TIMEOUT))

    @property
    def size(self) -> int:
        """Number of ranks."""
        return 1 if self.group is None else dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """This one's number."""
        return 0 if self.group is None else dist.get_rank(self.group)

    def all(self, action: Callable[[], T]) -> list[T]:
        """What ``action`` returns on every rank, by rank; it must be picklable.

        When it fails on one, every rank raises, naming that rank: its WeftError, or CheckpointError for
        what was not foreseen (there with its cause).
        """
        if self.group is None:
            return [action()]
        result: T | None = None
        failure: Exception | None = None
        try:
            result = action()
        except Exception as error:
            failure = error
        answers: list[Any] = [None] * self.size
        dist.all_gather_object(answers, (result, _said(failure)), group=self.group)
        for rank, (_, said) in enumerate(answers):
            if said is not None:
                kind, text = said
                raise kind(f"Rank {rank} of {self.size}: {text}", (rank,)) from failure
        return [answer for answer, _ in answers]

    def first(self, action: Callable[[], T]) -> T:
        """What ``action`` returns on rank 0, which alone runs it; failures as in :meth:`all`."""
        found: T | None = self.all(lambda: action() if self.rank == 0 else None)[0]
        return found  # type: ignore[return-value]

    @contextlib.contextmanager
    def directory(self, folder: Path) -> Iterator[Path]:
        """A temporary folder that becomes ``folder`` only if the block succeeds on every rank.

        Rank 0 makes and renames it. The block must fail on all ranks or on none: what may fail inside it
        goes through :meth:`all`. Raises ResourceError when a rank cannot see the folder of rank 0.
        """
        with contextlib.ExitStack() as stack:
            partial = self.first(lambda: stack.enter_context(atomic_directory(folder)))
            self.all(lambda: _visible(partial))
            yield partial
            self.first(stack.close)

    def send(self, tensor: Tensor, rank: int) -> None:
        """Give a CPU tensor to ``rank``, which receives it at the same time."""
        dist.send(tensor.contiguous(), group=self.group, group_dst=rank)

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype, rank: int) -> Tensor:
        """Take a CPU tensor from ``rank``."""
        tensor = torch.empty(shape, dtype=dtype)
        dist.recv(tensor, group=self.group, group_src=rank)
        return tensor


def _said(failure: Exception | None) -> tuple[type[WeftError], str] | None:
    if failure is None:
        return None
    if isinstance(failure, WeftError):
        return type(failure), str(failure)
    return CheckpointError, f"{type(failure).__name__}: {failure}"


def _visible(folder: Path) -> None:
    with disk_errors(folder):
        if not folder.is_dir():
            raise ResourceError(
                f"{folder.parent} is not the folder that rank 0 sees; give an --out on a file system that "
                "all hosts share."
            )
