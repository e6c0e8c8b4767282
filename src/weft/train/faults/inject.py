"""Faults made on purpose, for tests of restart and report: ``WEFT_FAULT="kill@rank=1,step=5"``.

A test tool, not a feature: without the variable nothing of it runs. Several faults are separated by ``;``.
Each strikes once in a run folder, in the forward pass of the step (counted from 1), on one rank:

    kill          SIGKILL to the process
    node          SIGKILL to the agent that started it, and to all its processes
    hang          the rank never comes to the next collective
    slow          it comes ``seconds`` later
    nan           its hidden states become NaN, and so the loss
    nan-gradient  the loss is finite, its gradient NaN
    disk          its part of the checkpoint after the step meets a full disk
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.utils.hooks import RemovableHandle

from weft.core.errors import UsageError

VARIABLE = "WEFT_FAULT"
KINDS = ("kill", "node", "hang", "slow", "nan", "nan-gradient", "disk")


@dataclass(frozen=True)
class Injected:
    """One fault; ``seconds`` belongs to slow."""

    kind: str
    rank: int = 0
    step: int = 1
    seconds: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Injected:
        """``kill@rank=1,step=5``; UsageError says what cannot be read."""
        kind, _, rest = text.strip().partition("@")
        kinds = {name: kind for name, kind in get_type_hints(cls).items() if name != "kind"}
        values: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, _, value = part.strip().partition("=")
            try:
                values[name] = kinds[name](value)
            except (KeyError, ValueError):
                raise UsageError(f"{VARIABLE}: {part!r} is none of rank=N, step=N, seconds=T.") from None
        if kind not in KINDS:
            raise UsageError(f"{VARIABLE}: {kind!r} is no fault; choose one of: {', '.join(KINDS)}.")
        return cls(kind, **values)


class Injector:
    """A hook of the loop that strikes when the step of a fault begins."""

    def __init__(self, faults: list[Injected], module: nn.Module, folder: Path):
        self._faults, self._module, self._folder = faults, module, folder
        self._spoilt: list[RemovableHandle] = []

    def begin(self, finished: int) -> None:
        """So many steps are finished: arm what belongs to the next one."""
        while self._spoilt:
            self._spoilt.pop().remove()
        for fault in self._faults:
            mark = self._folder / "faults" / f"struck-{fault.kind}-{fault.rank}-{fault.step}"
            if fault.step == finished + 1 and not mark.exists():
                self._arm(fault, mark)

    def after_step(self, record: dict[str, Any]) -> None:
        """The step of ``record`` is finished."""
        self.begin(record["step"])

    def close(self) -> None:
        """Nothing to close."""

    def _arm(self, fault: Injected, mark: Path) -> None:
        def strike() -> None:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()

        if fault.kind == "disk":
            strike()
            _fill_disk()
            return
        if fault.kind in ("nan", "nan-gradient"):
            change = _Spoil.apply if fault.kind == "nan-gradient" else _not_a_number

            def spoil(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                strike()
                return change(output)

            # For the whole step, as data that overflows would: the step is run again to find the rank.
            self._spoilt.append(self._module.register_forward_hook(spoil))
            return

        def stop(module: nn.Module, inputs: Any) -> None:
            handle.remove()
            strike()
            _ACTS[fault.kind](fault)

        handle = self._module.register_forward_pre_hook(stop)


def injector(rank: int, module: nn.Module, folder: Path) -> Injector | None:
    """What the variable asks of this rank; None without it. Raises UsageError when it cannot be read."""
    text = os.environ.get(VARIABLE, "")
    faults = [Injected.parse(part) for part in text.split(";") if part.strip()]
    mine = [fault for fault in faults if fault.rank == rank]
    return Injector(mine, module, folder) if mine else None


class _Spoil(torch.autograd.Function):
    """The identity, whose gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("nan")


def _not_a_number(x: Tensor) -> Tensor:
    return x * float("nan")


def _kill(fault: Injected) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_node(fault: Injected) -> None:
    agent = os.getppid()
    text = Path(f"/proc/{agent}/task/{agent}/children").read_text(encoding="ascii")
    os.kill(agent, signal.SIGKILL)
    others = [int(word) for word in text.split() if int(word) != os.getpid()]
    for process in [*others, os.getpid()]:
        os.kill(process, signal.SIGKILL)


def _hang(fault: Injected) -> None:
    while True:
        time.sleep(3600)


def _slow(fault: Injected) -> None:
    time.sleep(fault.seconds)


_ACTS: dict[str, Callable[[Injected], None]] = {
    "kill": _kill, "node": _kill_node, "hang": _hang, "slow": _slow,
}  # fmt: skip


def _fill_disk() -> None:
    """The next write of a part of a checkpoint by this process fails as on a full disk; later ones do not."""
    write = FileSystemWriter.write_data

    def full(*arguments: Any, **options: Any) -> Any:
        FileSystemWriter.write_data = write  # type: ignore[method-assign]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    FileSystemWriter.write_data = full  # type: ignore[method-assign]
