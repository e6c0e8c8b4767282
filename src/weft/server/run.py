"""A server from its parts to its end: models, store, keys, listener."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from weft.server.app import create_app
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.listen import Tls, http_server
from weft.server.models import Models
from weft.server.store import Store


@dataclass(frozen=True)
class Service:
    """What to serve, and how. ``models`` is called on the event loop that will use them."""

    models: Callable[[], Models]
    listener: socket.socket
    limits: Limits
    store: str | None = None
    tls: Tls | None = None


def run(service: Service, ready: Callable[[], None]) -> None:
    """Load the first model, call ``ready``, and serve until SIGTERM or Ctrl-C.

    Raises WeftError when the model or the store cannot be opened.
    """
    # With Python's own handler asyncio would cancel the coroutine, and the engines would not be ended.
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        asyncio.run(_run(service, ready))
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


async def _run(service: Service, ready: Callable[[], None]) -> None:
    with contextlib.ExitStack() as stack:
        keys: Keys | None = None
        ledger: Ledger | None = None
        if service.store is not None:
            store = Store(service.store)
            stack.callback(store.close)
            keys, ledger = Keys(store), Ledger(store)
            stack.callback(ledger.close)
        models = service.models()
        try:
            await models.start()
            app = create_app(models, service.limits, keys, ledger)
            # What is loaded stays, and looking through it for garbage would hold up all connections.
            gc.collect()
            gc.freeze()
            ready()
            http = http_server(app, service.limits, service.tls)
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn repeats the signal after an orderly end
                await http.serve(sockets=[service.listener])
        finally:
            await models.stop()
