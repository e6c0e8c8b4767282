"""The end of the time to finish: who still waits is told."""

from __future__ import annotations

import asyncio
import contextlib
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.server.errors import ApiError

_TELL_SECONDS = 1.0


class Drain:
    """ASGI middleware: a request that the server cancels, as it does when it ends, is told so.

    A stream gets a last event with the error, as when its engine fails, an answer that has not begun is 503.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        begun: Message | None = None
        whole = False

        async def seen(message: Message) -> None:
            nonlocal begun, whole
            if message["type"] == "http.response.start":
                begun = message
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, seen)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if whole:
                return
            # Nobody waits for a reader that takes nothing, and the loop may end before it does.
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(_TELL_SECONDS):
                    await _tell(begun, scope, receive, send)


async def _tell(begun: Message | None, scope: Scope, receive: Receive, send: Send) -> None:
    message = "The server is stopping and did not finish this request; send it again."
    error = ApiError(503, message, headers={"Retry-After": "5"})
    if begun is None:
        await error.response()(scope, receive, send)
    elif dict(begun["headers"]).get(b"content-type", b"").startswith(b"text/event-stream"):
        event = f"data: {json.dumps(error.body(), ensure_ascii=False)}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
