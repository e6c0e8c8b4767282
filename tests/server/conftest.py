"""Servers over tiny models, each with its engine process, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from weft.checkpoint.huggingface import save_model
from weft.server.app import create_app
from weft.server.engine import Engine, EngineOptions, Patience
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.listen import bind, http_server
from weft.server.models import Models


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    # The models here are tiny, and threads that wait for each other suffer on a busy machine.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@dataclass
class Server:
    """A server in a thread of this process, and what a test may look at."""

    address: str
    models: Models
    http: httpx.Client

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


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_decoder, tiny_tokenizer) -> Path:
    """A model of 128 positions."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    save_model(folder, tiny_decoder(), tiny_tokenizer)
    return folder


@pytest.fixture(scope="session")
def long_checkpoint(tmp_path_factory, tiny_decoder, tiny_tokenizer) -> Path:
    """A model of 8,000 positions, for answers that do not end by themselves."""
    folder = tmp_path_factory.mktemp("served") / "long"
    save_model(folder, tiny_decoder(max_position_embeddings=8000), tiny_tokenizer)
    return folder


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
    with httpx.Client(base_url=address, timeout=60) as http:
        try:
            yield Server(address, models, http)
        finally:
            uvicorn_server.should_exit = True
            thread.join(60)
            listener.close()


@pytest.fixture(scope="session")
def server(checkpoint) -> Iterator[Server]:
    """One server for all tests that leave it as it is."""
    with running({"tiny": EngineOptions(str(checkpoint), "float32", max_sequences=4)}) as found:
        until(lambda: found.get("/health").status_code == 200)
        yield found


@pytest.fixture
def client(server) -> Iterator[Server]:
    yield server
    until(server.idle)


@pytest.fixture(scope="module")
def endless(long_checkpoint) -> Iterator[Server]:
    """A server whose answers are long; two at once and one in the queue."""
    options = EngineOptions(str(long_checkpoint), "float32", max_sequences=2)
    patience = Patience(backoff=0.05)
    with running({"tiny": options}, Limits(waiting=1), patience=patience) as found:
        yield found
