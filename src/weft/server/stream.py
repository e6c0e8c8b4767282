"""Answers that stop as soon as nobody reads them: server-sent events, and waiting for a whole answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

DONE = "[DONE]"
"""The last event of OpenAI's streams."""


class EventStream(Response):
    """``text/event-stream`` of JSON events; ``close`` is called once, however the stream ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Mapping[str, Any] | str],
        close: Callable[[], None],
        send_seconds: float | None = None,
    ):
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close, self._send_seconds = events, close, send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end, the reader is gone, or it takes nothing for ``send_seconds``."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await unless_gone(self._send_events(send), receive)
        except (OSError, TimeoutError):
            return  # the connection broke in the middle of a write, or it stands still
        finally:
            self._close()

    async def _send_events(self, send: Send) -> None:
        async for event in self._events:
            text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            body = f"data: {text}\n\n".encode()
            async with asyncio.timeout(self._send_seconds):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
    """The result of ``work``, or None when the client disconnects first; ``work`` is cancelled then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
