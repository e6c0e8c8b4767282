"""Who may do what: every route is closed unless it is named here or a key opens it."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Receive, Scope, Send

from weft.server.errors import ApiError
from weft.server.fresh_keys import FreshKeys
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import replay

_OPEN = ("/", "/health", "/page/index.html")
_ADMIN = ("/metrics", "/admin/", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")

_NOTED_A_MINUTE = 100


class Gate:
    """ASGI middleware: puts the caller's key (or None without keys) into ``scope["state"]["key"]``.

    The page's own files and /health are open, because a page must load before anybody can type a key into
    it; they say nothing about the models. ``admin`` is needed for /metrics, /admin and the routes of
    adapters, ``use`` for the rest.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, ledger: Ledger | None):
        self._app, self._ledger = app, ledger
        self._keys = None if keys is None else FreshKeys(keys)
        self._minute = self._noted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """401 without a key, 403 with one that may not."""
        if scope["type"] == "websocket":
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["key"] = None
        try:
            if self._keys is not None:
                self._admit(await self._keys.now(), scope)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        # Bodies there are of no use, and strangers' would be held beside those of keys.
        await self._app(scope, replay(b"", receive) if _is_open(scope["path"]) else receive, send)

    def _admit(self, keys: Keys, scope: Scope) -> None:
        path = scope["path"]
        presented = _presented(scope)
        key = keys.recognise(presented) if presented is not None else None
        scope["state"]["key"] = key
        if _is_open(path) or not keys.any:
            return
        if key is None:
            if presented is not None:
                self._note_refusal(scope)
            message = "An API key is needed: send it as Authorization: Bearer KEY."
            if presented is not None:
                message = "This API key is not valid here."
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if path.startswith(_ADMIN) and key.scope != "admin":
            if self._ledger is not None:
                self._ledger.event(key.id, "forbidden", f"{scope['method']} {path}")
            raise ApiError(403, "This needs a key of scope admin.", code="insufficient_scope")

    def _note_refusal(self, scope: Scope) -> None:
        """Into the audit log, but not all of a flood: anybody can send wrong keys, and nobody shall fill the
        disk with them."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._noted = minute, 0
        self._noted += 1
        if self._ledger is not None and self._noted <= _NOTED_A_MINUTE:
            self._ledger.event("", "refused", f"{scope['method']} {scope['path']}")


def _is_open(path: str) -> bool:
    return path in _OPEN or (path.startswith("/page/") and path.endswith((".js", ".css")))


def _presented(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if kind.lower() == "bearer" else ""
    return None
