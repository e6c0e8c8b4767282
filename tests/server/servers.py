"""Servers over tiny models, each with its engine process, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from weft.server.app import create_app
from weft.server.engine import Engine, EngineOptions
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.listen import bind, http_server
from weft.server.models import Models

# The end-of-text token would end answers that a test needs to be long.
ENDLESS = {"prompt": [5], "max_tokens": 7000, "temperature": 0, "ignore_eos": True}


@dataclass
class Server:
    """A server in a thread of this process, and what a test may look at; ``end`` is what SIGTERM does."""

    address: str
    models: Models
    http: httpx.Client
    end: Callable[[], None]

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def engine(self, name: str | None = None) -> Engine:
        return self.models.find(name).engine

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def post(self, path: str, json: Any, **options: Any) -> httpx.Response:
        return self.http.post(path, json=json, **options)

    def idle(self) -> bool:
        """Nothing is open, and the engine holds no block for anybody."""
        engine = self.engine()
        stats = engine.stats
        return engine.active == 0 and stats["free_blocks"] == stats["total_blocks"]


@contextlib.contextmanager
def standing_still(process: int) -> Iterator[None]:
    """No answer of this engine ends while the block runs, however long a busy machine takes for it."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    # An engine imports its libraries in four seconds, and in a minute where others keep the machine busy.
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@contextlib.contextmanager
def running(
    options: dict[str, EngineOptions],
    limits: Limits | None = None,
    keys: Keys | None = None,
    ledger: Ledger | None = None,
    **how: Any,
) -> Iterator[Server]:
    """A server while the block runs; ``how`` goes to :class:`Models`."""
    limits = limits or Limits()
    listener = bind("127.0.0.1", 0)
    box: list[Any] = []
    started = threading.Event()

    async def main() -> None:
        try:
            models = Models(options, **how)
            await models.start()
            app = create_app(models, limits, keys, ledger)
            http = http_server(app, limits)
            box.append((models, http))
            started.set()
            await http.serve(sockets=[listener])
        except BaseException as error:
            box.append(error)
            raise
        finally:
            started.set()
            await models.stop()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(120)
    assert not isinstance(box[0], BaseException), box
    models, uvicorn_server = box[0]
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def end() -> None:
        uvicorn_server.should_exit = True

    with httpx.Client(base_url=address, timeout=120) as http:
        try:
            yield Server(address, models, http, end)
        finally:
            end()
            thread.join(60)
            listener.close()
