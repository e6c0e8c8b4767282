"""Weft's own engine process: ``python -m weft.server.host FD``, with a socket to the server at that number.

It loads one checkpoint and steps it; it ends when the other side is gone, reads nothing else and listens
nowhere.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from weft.api import load
from weft.core.errors import ResourceError, WeftError
from weft.server import seam
from weft.server.loop import Host, first_message, prepare_process
from weft.server.wire import Unpacker, pack

OPTIONS = (*("dtype", "device", "max_sequences", "adapters", "draft", "speculation", "cache_dtype"),)
"""What of a ``load`` message goes to :func:`weft.load`."""


def main(descriptor: int) -> None:
    """Load what the first message names, say so, and work."""
    prepare_process()
    with socket.socket(fileno=descriptor) as wire:
        unpacker = Unpacker()
        order = first_message(wire, unpacker)
        if order is None:
            return
        try:
            llm = load(order["checkpoint"], **{key: order[key] for key in OPTIONS}).llm
        except (WeftError, MemoryError, RuntimeError) as error:
            # RuntimeError is what torch says when there is no memory.
            known = (
                error if isinstance(error, WeftError) else ResourceError(f"The model cannot load: {error}")
            )
            wire.sendall(pack({"op": "failed", "error": str(known), "exit_code": known.exit_code}))
            return
        worker = seam.LlmWorker(llm)
        ready = {
            "op": "ready",
            "context": llm.context,
            "vocabulary": llm.runner.model.config.vocab_size,
            "hidden": llm.runner.model.config.hidden_size,
            "sequences": order["max_sequences"],
            "supported": seam.supported(),
        }
        wire.sendall(pack({**ready, "stats": worker.stats()}))
        # When the server is gone, so is every reader.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            Host(worker, wire, unpacker).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
