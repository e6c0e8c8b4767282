"""Saving beside training: the state is copied to the host's memory, and a thread writes it from there.

One save at a time: the next waits for the one before it. A failure in the thread is raised by the next
call, as one sentence.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from weft.checkpoint import state as checkpoint
from weft.checkpoint.state import State
from weft.core.errors import WeftError
from weft.parallel.company import Company


class Saver:
    """Writes the checkpoints of one run into ``folder`` and keeps the newest ``keep``.

    ``beside``: in a thread, while training goes on; else :meth:`save` returns when all is written. Every
    rank of ``company`` has one, and calls :meth:`save` for the same steps.
    """

    def __init__(self, folder: Path, keep: int, company: Company, *, beside: bool):
        self.folder, self.keep, self.company, self.beside = folder, keep, company, beside
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._buffers: dict[str, Tensor] = {}

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way; its failure is raised unless there is an error already."""
        if kind is None:
            self.wait()
        elif issubclass(kind, Exception):
            with contextlib.suppress(WeftError):
                self.wait()

    @property
    def failed(self) -> bool:
        """Whether the save that is under way, or was, has failed; :meth:`wait` raises why."""
        return self._failure is not None

    def save(self, state: State) -> None:
        """Save ``state``, whose tensors may change as soon as this returns.

        Raises ResourceError when this save (not ``beside``), or the one before, met a full disk.
        """
        self.wait()
        if not self.beside:
            self._write(state)
            return
        staged = State(state.step, self._stage(state.tensors), state.info)
        self._thread = threading.Thread(target=self._guarded, args=(staged,), name="saver", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Return when nothing is being written any more. :attr:`failed` says whether it went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """As :meth:`settle`, but raises what went wrong, once."""
        self.settle()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _guarded(self, state: State) -> None:
        try:
            self._write(state)
        except BaseException as error:
            self._failure = error

    def _write(self, state: State) -> None:
        checkpoint.save(self.folder, state, self.company)
        self.company.first(lambda: checkpoint.prune(self.folder, self.keep))

    def _stage(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies in the host's memory, pinned where they come from a GPU; the buffers are used again."""
        staged = {}
        for name, tensor in tensors.items():
            part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != part.shape:
                buffer = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
                self._buffers[name] = buffer
            buffer.copy_(part, non_blocking=True)
            staged[name] = buffer
            if isinstance(tensor, DTensor):
                # The same cut, its part now on the host (from_local would move it to the mesh's device).
                staged[name] = DTensor(buffer, tensor._spec, requires_grad=False)  # type: ignore[no-untyped-call]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return staged
