"""What one client may ask for, so that none can take the server from the others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.server.errors import ApiError


@dataclass(frozen=True)
class Limits:
    """``choices`` counts prompts times ``n`` (or ``best_of``) of one request; ``waiting`` answers of a model
    that it does not work on yet; ``owner_share`` the part of the places that one key may hold when there are
    keys. ``send_seconds``: a reader that takes nothing for so long is let go. ``drain_seconds``: answers may
    take so long to finish after SIGTERM or Ctrl-C. ``documents`` bounds the texts of one embedding or rerank
    request.
    """

    body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    head_seconds: float = 15.0
    send_seconds: float = 60.0
    connections: int = 4096
    drain_seconds: int = 30
    choices: int = 32
    documents: int = 2048
    stops: int = 16
    stop_characters: int = 256
    waiting: int = 64
    owner_share: float = 0.5
    constraint_characters: int = 65_536
    constraint_expanded: int = 100_000
    retry_after_seconds: int = 5


class BodyLimit:
    """ASGI middleware: reads a request's body up to a size and within a time, then passes it on whole."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """413 for a body too large, 408 for one too slow."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            error = ApiError(408, f"The body did not arrive within {self._limits.body_seconds:g} seconds.")
            await error.response()(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        limit = self._limits.body_bytes
        too_large = ApiError(413, f"The body is larger than the {limit} bytes that this server accepts.")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large
            if not message.get("more_body", False):
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replay
