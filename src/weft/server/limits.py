"""What one client may ask for, so that none can take the server from the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.server.errors import ApiError


@dataclass(frozen=True)
class Limits:
    """``choices`` counts prompts times ``n`` (or ``best_of``) of one request; ``waiting`` answers of a model
    that it does not work on yet; ``owner_share`` the part of the places that one key may hold when there are
    keys. ``send_seconds``: a reader that takes nothing for so long is let go. ``drain_seconds``: answers may
    take so long to finish after SIGTERM or Ctrl-C. ``documents`` bounds the texts of one embedding or rerank
    request, ``bodies_bytes`` the bodies of all requests together that are under way.
    """

    body_bytes: int = 4 * 2**20
    bodies_bytes: int = 512 * 2**20
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


_SMALL = 2**16
"""Bytes of a body that is read whatever the others hold: with all connections that makes 256 MiB."""


@dataclass
class _Body:
    key_id: str | None
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def whole(self) -> bytes:
        content, self.parts = b"".join(self.parts), []
        return content


class BodyLimit:
    """ASGI middleware: reads a request's body up to a size and within a time, then passes it on whole."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app, self._limits = app, limits
        self._held: Counter[str | None] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """413 for a body too large, 408 for one too slow, 429 while others hold all the memory there is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = scope["state"]["key"]
        body = _Body(None if key is None else key.id)
        try:
            await self._pass_on(scope, receive, send, body)
        finally:
            self._held[body.key_id] -= body.size
            self._held += Counter()  # drops those who hold nothing any more

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, body: _Body) -> None:
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                complete = await self._read(scope, receive, body)
        except TimeoutError:
            error = ApiError(408, f"The body did not arrive within {self._limits.body_seconds:g} seconds.")
            await error.response()(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            if complete:
                await self._app(scope, replay(body.whole(), receive), send)

    async def _read(self, scope: Scope, receive: Receive, body: _Body) -> bool:
        """Whether all of it has come; the client may have gone before."""
        limit = self._limits.body_bytes
        too_large = ApiError(413, f"The body is larger than the {limit} bytes that this server accepts.")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise too_large
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return False
            part = message.get("body", b"")
            body.parts.append(part)
            body.size += len(part)
            self._held[body.key_id] += len(part)
            if body.size > limit:
                raise too_large
            if body.size > _SMALL and self._full(body.key_id):
                after = str(self._limits.retry_after_seconds)
                said = "The server holds as many large requests as it can; try again later."
                raise ApiError(429, said, code="queue_full", headers={"Retry-After": after})
            if not message.get("more_body", False):
                return True

    def _full(self, key_id: str | None) -> bool:
        """Whether all together hold too much, or one key does."""
        most = self._limits.bodies_bytes
        share = 1.0 if key_id is None else self._limits.owner_share
        return self._held.total() > most or self._held[key_id] > share * most


def replay(body: bytes, receive: Receive) -> Receive:
    """What gives ``body`` first, then what ``receive`` does."""
    unread = [body]

    async def given() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return given
