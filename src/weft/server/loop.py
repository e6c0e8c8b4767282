"""What an engine process does with the messages of one socket, whichever engine it is.

Commands come in and pieces go out as :mod:`weft.server.wire` says. Nothing here needs torch, so that the
processes of other engines can run it in environments of their own.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import logging
import select
import signal
import socket
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from weft.core.errors import CheckpointError, UsageError, WeftError
from weft.server.wire import Message, Unpacker, pack

BEAT_SECONDS = 1.0
"""An idle engine says that often that it lives."""

_CHUNK = 2**18
_log = logging.getLogger("weft.engine")

Request = TypeVar("Request", bound=Hashable)


def vector(values: npt.NDArray[np.floating[Any]]) -> str:
    """Numbers as the messages carry them: base64 of little-endian float32. CheckpointError for NaN."""
    if not np.isfinite(values).all():
        raise CheckpointError("The model gives NaN or infinite vectors: its weights are damaged or overflow.")
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


class Worker(Protocol[Request]):
    """An engine as the loop sees it; ``Request`` is what it calls a request under way."""

    def add(self, message: Message) -> Request:
        """Queue what an ``add``, ``task`` or ``embed`` message asks for. Raises WeftError when it cannot be
        done."""
        ...

    def abort(self, request: Request) -> None:
        """End it before the next step; its finish reason is then "abort"."""
        ...

    def step(self) -> Iterable[Request]:
        """Work a little on everything under way; the requests that have news."""
        ...

    def news(self, request: Request) -> Message:
        """``text``, all ``tokens`` so far, and where there are any ``logprobs``, ``prompt_logprobs``,
        ``record``, ``vector`` (:func:`vector`) and ``finish``; told once. Raises what went wrong with this
        request alone."""
        ...

    def position(self, request: Request) -> int:
        """A number that changes whenever something has been done for it."""
        ...

    def stats(self) -> dict[str, int]:
        """Counts of the moment."""
        ...

    def change_adapter(self, name: str, folder: str | None) -> None:
        """Load an adapter, or unload it where ``folder`` is None. WeftError when that cannot be done."""
        ...


class Host(Generic[Request]):
    """An engine that obeys the messages of one socket."""

    def __init__(self, worker: Worker[Request], wire: socket.socket, unpacker: Unpacker):
        self._worker, self._wire, self._unpacker = worker, wire, unpacker
        # The number of the socket is the server's, which may have thousands of connections: no select().
        self._poll = select.poll()
        self._poll.register(wire, select.POLLIN)
        self._requests: dict[int, Request] = {}
        self._names: dict[Request, int] = {}
        self._stopping = False
        self._said = 0.0
        self._reached = 0

    def run(self) -> None:
        """Work until the server says stop or is gone."""
        self._obey(self._unpacker.feed(b""))
        while self._listen():
            if not self._requests:
                self._beat()
                continue
            try:
                advanced = self._worker.step()
            except Exception as error:
                self._fail(error)
            else:
                self._publish(advanced)

    def _listen(self) -> bool:
        """Take in what has come; wait for it when there is nothing else to do. False at the end."""
        if self._poll.poll(0 if self._requests else BEAT_SECONDS * 1000):
            data = self._wire.recv(_CHUNK)
            if not data:
                return False
            self._obey(self._unpacker.feed(data))
        return not self._stopping

    def _obey(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message["op"] in ("add", "task", "embed"):
                self._add(message)
            elif message["op"] == "abort":
                self._abort(message["id"])
            elif message["op"] == "adapter":
                self._change_adapter(message)
            elif message["op"] == "stop":
                self._stopping = True

    def _add(self, message: Message) -> None:
        try:
            request = self._worker.add(message)
        except Exception as error:
            self._send_error([message["id"]], error)
        else:
            self._requests[message["id"]] = request
            self._names[request] = message["id"]
            self._send({"op": "taken", "id": message["id"]})

    def _change_adapter(self, message: Message) -> None:
        try:
            self._worker.change_adapter(message["name"], message["folder"])
        except WeftError as error:
            # Whatever is wrong with an adapter, the engine is as it was.
            self._send({"op": "error", "ids": [message["id"]], "error": str(error), "refused": True})
        except Exception as error:
            self._send_error([message["id"]], error)
        else:
            self._send({"op": "done", "id": message["id"]})

    def _abort(self, name: int) -> None:
        if (request := self._requests.get(name)) is not None:
            try:
                self._worker.abort(request)
            except Exception as error:
                self._fail(error)
            else:
                self._publish([request])

    def _publish(self, advanced: Iterable[Request]) -> None:
        items: list[dict[str, Any]] = []
        for request in advanced:
            name = self._names.get(request)
            if name is None:
                continue
            try:
                items.append({"id": name, **self._worker.news(request)})
            except Exception as error:
                self._send_error([name], error)
                self._forget(name)
                continue
            if "finish" in items[-1]:
                self._forget(name)
        reached = sum(map(self._worker.position, self._requests.values()))
        moved, self._reached = bool(items) or reached != self._reached, reached
        self._send({"op": "pieces", "items": items, "moved": moved, "stats": self._worker.stats()})

    def _fail(self, error: Exception) -> None:
        """Answer everything under way with the error; the engine goes on with nothing."""
        for request in self._requests.values():
            # Whatever else fails now, everybody is to be answered.
            with contextlib.suppress(Exception):
                self._worker.abort(request)
        self._send_error(list(self._requests), error)
        for name in list(self._requests):
            self._forget(name)

    def _forget(self, name: int) -> None:
        del self._names[self._requests.pop(name)]

    def _send_error(self, names: list[int], error: Exception) -> None:
        known = isinstance(error, WeftError)
        if not known:
            _log.error("The engine failed", exc_info=error)
        text = str(error) if known else "The engine failed on this request; the log says more."
        self._send({"op": "error", "ids": names, "error": text, "refused": isinstance(error, UsageError)})

    def _beat(self) -> None:
        if time.monotonic() - self._said >= BEAT_SECONDS:
            self._send({"op": "beat", "stats": self._worker.stats()})

    def _send(self, message: Message) -> None:
        self._said = time.monotonic()
        self._wire.sendall(pack(message))


Facts = Message
"""What the server learns of a loaded model: ``context``, ``vocabulary``, ``hidden``, ``supported``, and of
models that do tasks ``tasks``, ``kind``, ``architecture`` and ``windows``; see :mod:`weft.server.host`."""


def work(descriptor: int, open_worker: Callable[[Message], tuple[Worker[Any], Facts]]) -> None:
    """Load what the first message on this socket names, say so, and work until the server is gone.

    ``open_worker`` loads it, or raises the WeftError that the server is told.
    """
    _prepare_process()
    with socket.socket(fileno=descriptor) as wire:
        unpacker = Unpacker()
        order = _first_message(wire, unpacker)
        if order is None:
            return
        try:
            worker, facts = open_worker(order)
        except WeftError as error:
            _tell(wire, {"op": "failed", "error": str(error), "exit_code": error.exit_code})
            return
        except OSError as error:  # a folder that this user may not enter, for instance
            said = f"{error.filename or 'The system'}: {error.strerror or error}."
            _tell(wire, {"op": "failed", "error": said, "exit_code": CheckpointError.exit_code})
            return
        # What is loaded stays, and looking through it for garbage would hold up answers for 0.2 s at a time.
        gc.collect()
        gc.freeze()
        ready = {"op": "ready", **facts, "sequences": order["max_sequences"], "stats": worker.stats()}
        if not _tell(wire, ready):
            return
        # When the server is gone, so is every reader.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            Host(worker, wire, unpacker).run()


def _tell(wire: socket.socket, message: Message) -> bool:
    """Whether the server heard it; it may have unloaded the model while that was loading."""
    try:
        wire.sendall(pack(message))
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _first_message(wire: socket.socket, unpacker: Unpacker) -> Message | None:
    """What the server says first: what to load. None when it is gone already."""
    while data := wire.recv(_CHUNK):
        for message in unpacker.feed(data):
            return message
    return None


def _prepare_process() -> None:
    """The server ends an engine through the socket; a signal meant for it may reach all its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="weft engine: %(message)s")
