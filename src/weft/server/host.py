"""The engine process: ``python -m weft.server.host FD``, with a socket to the server as that descriptor.

It loads one checkpoint and steps it. Commands come in and pieces go out as :mod:`weft.server.wire` says;
it ends when the other side is gone. It reads nothing else and listens nowhere.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from weft.api import load
from weft.core.errors import ResourceError, UsageError, WeftError
from weft.engine import LLM
from weft.engine.sequence import Sequence
from weft.server import seam
from weft.server.wire import Message, Unpacker, pack

BEAT_SECONDS = 1.0
"""An idle engine says that often that it lives."""

_CHUNK = 2**18
_log = logging.getLogger("weft.engine")


class Host:
    """An engine that obeys the messages of one socket."""

    def __init__(self, llm: LLM, wire: socket.socket, unpacker: Unpacker):
        self._llm, self._wire, self._unpacker = llm, wire, unpacker
        self._sequences: dict[int, Sequence] = {}
        self._names: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._embeddings: deque[Message] = deque()
        self._stopping = False
        self._said = 0.0
        self._reached = 0

    def run(self) -> None:
        """Work until the server says stop or is gone."""
        self._obey(self._unpacker.feed(b""))
        while self._listen():
            if self._embeddings:
                self._embed(self._embeddings.popleft())
            if not self._sequences:
                self._beat()
                continue
            try:
                advanced = self._llm.step()
            except Exception as error:
                self._fail(error)
            else:
                self._publish(advanced)

    def _listen(self) -> bool:
        """Take in what has come; wait for it when there is nothing else to do. False at the end."""
        busy = bool(self._sequences or self._embeddings)
        ready, _, _ = select.select([self._wire], [], [], 0 if busy else BEAT_SECONDS)
        if ready:
            data = self._wire.recv(_CHUNK)
            if not data:
                return False
            self._obey(self._unpacker.feed(data))
        return not self._stopping

    def _obey(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message["op"] == "add":
                self._add(message)
            elif message["op"] == "abort":
                self._abort(message["id"])
            elif message["op"] == "embed":
                self._embeddings.append(message)
            elif message["op"] == "adapter":
                self._change_adapter(message)
            elif message["op"] == "stop":
                self._stopping = True

    def _add(self, message: Message) -> None:
        try:
            params = seam.sampling(message["params"])
            sequence = seam.add(
                self._llm, message["tokens"], params, message["owner"], message.get("adapter")
            )
        except WeftError as error:
            self._send_error([message["id"]], error)
        except Exception as error:
            _log.error("A request could not be taken", exc_info=error)
            self._send_error([message["id"]], error)
        else:
            self._sequences[message["id"]] = sequence
            self._names[id(sequence)] = message["id"]
            self._told[message["id"]] = 0
            self._send({"op": "taken", "id": message["id"]})

    def _change_adapter(self, message: Message) -> None:
        try:
            seam.change_adapter(self._llm, message["name"], message["folder"])
        except WeftError as error:
            # Whatever is wrong with an adapter, the engine is as it was.
            self._send({"op": "error", "ids": [message["id"]], "error": str(error), "refused": True})
        else:
            self._send({"op": "done", "id": message["id"]})

    def _abort(self, name: int) -> None:
        self._embeddings = deque(item for item in self._embeddings if item["id"] != name)
        if sequence := self._sequences.get(name):
            self._llm.abort(sequence)
            self._publish([sequence])

    def _publish(self, advanced: Iterable[Sequence]) -> None:
        items: list[dict[str, Any]] = []
        for sequence in advanced:
            name = self._names.get(id(sequence))
            if name is None:
                continue
            told, self._told[name] = self._told[name], sequence.generated_length
            item: dict[str, Any] = {"id": name, "text": sequence.take(), "tokens": sequence.generated_length}
            if (found := seam.logprobs(sequence, told)) is not None:
                item["logprobs"] = found
            if sequence.finish_reason is not None:
                item["finish"] = sequence.finish_reason
                self._forget(name)
            items.append(item)
        reached = sum(seam.position(sequence) for sequence in self._sequences.values())
        moved, self._reached = bool(items) or reached != self._reached, reached
        self._send({"op": "pieces", "items": items, "moved": moved, "stats": seam.stats(self._llm)})

    def _embed(self, message: Message) -> None:
        try:
            vector = seam.embed(self._llm, message["tokens"])
        except Exception as error:
            _log.error("An embedding failed", exc_info=error)
            self._send_error([message["id"]], error)
        else:
            data = base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii")
            self._send({"op": "vector", "id": message["id"], "data": data})

    def _fail(self, error: Exception) -> None:
        """Answer everything under way with the error; the engine goes on with nothing."""
        if not isinstance(error, WeftError):
            _log.error("A step of the engine failed", exc_info=error)
        for sequence in self._sequences.values():
            self._llm.abort(sequence)
        self._send_error(list(self._sequences), error)
        for name in list(self._sequences):
            self._forget(name)

    def _forget(self, name: int) -> None:
        del self._names[id(self._sequences.pop(name))], self._told[name]

    def _send_error(self, names: list[int], error: Exception) -> None:
        known = isinstance(error, WeftError)
        text = str(error) if known else "The engine failed on this request; the log says more."
        self._send({"op": "error", "ids": names, "error": text, "refused": isinstance(error, UsageError)})

    def _beat(self) -> None:
        if time.monotonic() - self._said >= BEAT_SECONDS:
            self._send({"op": "beat", "stats": seam.stats(self._llm)})

    def _send(self, message: Message) -> None:
        self._said = time.monotonic()
        self._wire.sendall(pack(message))


def main(descriptor: int) -> None:
    """Load what the first message names, say so, and work."""
    # The server ends this process through the socket; a Ctrl-C meant for it reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="weft engine: %(message)s")
    with socket.socket(fileno=descriptor) as wire:
        unpacker = Unpacker()
        order = _first(wire, unpacker)
        if order is None:
            return
        try:
            options = {key: value for key, value in order.items() if key not in ("op", "checkpoint")}
            llm = load(order["checkpoint"], **options).llm
        except (WeftError, MemoryError, RuntimeError) as error:
            # RuntimeError is what torch says when there is no memory.
            known = (
                error if isinstance(error, WeftError) else ResourceError(f"The model cannot load: {error}")
            )
            wire.sendall(pack({"op": "failed", "error": str(known), "exit_code": known.exit_code}))
            return
        ready = {
            "op": "ready",
            "context": llm.context,
            "vocabulary": llm.runner.model.config.vocab_size,
            "hidden": llm.runner.model.config.hidden_size,
            "sequences": order["max_sequences"],
            "supported": seam.supported(),
        }
        wire.sendall(pack({**ready, "stats": seam.stats(llm)}))
        # When the server is gone, so is every reader.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            Host(llm, wire, unpacker).run()


def _first(wire: socket.socket, unpacker: Unpacker) -> Message | None:
    while data := wire.recv(_CHUNK):
        for message in unpacker.feed(data):
            return message
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
