"""A server over a tiny model: in process for most tests, on a real socket where connections matter."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from weft.engine import LLM
from weft.server import Limits, Worker, create_app
from weft.server.listen import bind


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    # The models here are tiny, and threads that wait for each other suffer on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Client:
    """Requests to the application without a socket; every call is an event loop of its own."""

    def __init__(self, app: Any):
        self._app = app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request(method, path, **options))

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.open() as client:
            return await client.request(method, path, **options)

    def open(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, json: Any) -> httpx.Response:
        return self.request("POST", path, json=json)


@pytest.fixture(scope="module")
def worker(tiny_decoder, tiny_tokenizer) -> Iterator[Worker]:
    worker = Worker(LLM(tiny_decoder(), tiny_tokenizer, max_sequences=4))
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def client(worker) -> Client:
    return Client(create_app(worker, "tiny"))


@pytest.fixture
def serve(tiny_decoder, tiny_tokenizer) -> Iterator[Callable[..., tuple[str, Worker]]]:
    """Starts real servers; returns the address and the worker of each."""
    with contextlib.ExitStack() as stack:

        def start(limits: Limits | None = None, **shape: Any) -> tuple[str, Worker]:
            worker = Worker(LLM(tiny_decoder(**shape), tiny_tokenizer, max_sequences=2))
            listener = bind("127.0.0.1", 0)
            config = uvicorn.Config(create_app(worker, "tiny", limits), log_level="error")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join()
                listener.close()

            stack.callback(stop)
            return f"http://127.0.0.1:{listener.getsockname()[1]}", worker

        yield start
