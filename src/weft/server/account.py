"""Requests to the API, each counted and written down once it is over, however it ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.server.answer import Answer
from weft.server.ledger import Ledger, Use
from weft.server.metrics import Metrics

_COUNTED = ("/v1/", "/tokenize", "/detokenize")
_GONE, _REFUSED, _FAILED, _STOPPED = 499, 401, 500, 503


@dataclass
class Work:
    """What a route says of its request as soon as it knows it; ``answers`` are told by the engine."""

    model: str = ""
    user: str | None = None
    prompt_tokens: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def fault(self) -> int | None:
        """The status that a broken answer would have had, had its stream not begun with 200; None when all
        are whole. Answers that were ended because of another's fault have the least, 499."""
        return max((answer.fault.status for answer in self.answers if answer.fault), default=None)


class Account:
    """ASGI middleware: a count in the metrics and a row in the ledger for every request to the API.

    ``paths`` are those of the routes: others are counted as one, so that nobody can make up names. What is
    refused for want of a key is counted and not written, or strangers could fill the disk.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, ledger: Ledger | None, paths: frozenset[str]):
        self._app, self._metrics, self._ledger, self._paths = app, metrics, ledger, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] != "http" or not scope["path"].startswith(_COUNTED):
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), _GONE

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except asyncio.CancelledError:
            status = _STOPPED
            raise
        except Exception:
            status = _FAILED
            raise
        finally:
            self._write(scope, status, time.monotonic() - began)

    def _write(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope.get("state", {})
        work: Work = state.get("work") or Work()
        if status == 200 and work.fault is not None:
            status = work.fault
        route = self._route(scope)
        self._metrics.request(route, work.model, status, work.prompt_tokens, work.answers)
        if self._ledger is None or status == _REFUSED:
            return
        key, answers = state.get("key"), work.answers
        firsts = [answer.first - answer.submitted for answer in answers if answer.first is not None]
        self._ledger.use(
            Use(
                time.time(),
                key.id if key else "",
                work.user,
                route,
                work.model,
                status,
                work.prompt_tokens,
                sum(answer.tokens for answer in answers),
                min(firsts, default=None),
                seconds,
            )
        )

    def _route(self, scope: Scope) -> str:
        found: str | None = getattr(scope.get("route"), "path", None)
        path = found or scope["path"]
        return path if path in self._paths else "other"
