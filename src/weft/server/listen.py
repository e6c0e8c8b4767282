"""A socket, a server on it, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from weft.core.errors import ResourceError, UsageError
from weft.server.limits import Limits
from weft.server.open_files import raise_open_files

_BACKLOG = 2048
"""Connections that the system keeps until they are accepted."""
_ACCEPTED_AT_ONCE = 16
"""Then events of engines have their turn: of a flood each connection takes about a millisecond."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. UsageError for an address that is none, ResourceError for a port that is taken."""
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port; give a number from 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"--host {host!r} is not an address of this machine.") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # A reader whose window stays shut holds its connection no longer than this, even while closing.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} on {host} is in use; stop the other program or give another --port."
        elif error.errno == errno.EACCES:
            message = f"Port {port} is not allowed to this user; give a --port of 1024 or more."
        else:
            message = (
                f"{host}:{port} cannot be listened on ({error.strerror}); give another --host or --port."
            )
        raise ResourceError(message) from None
    return listener


class _Protocol(H11Protocol):
    """uvicorn's, but a connection that owes a whole request head, or sends a body that nobody reads any more,
    is closed in time. One that is idle between requests is closed by uvicorn."""

    head_seconds = Limits.head_seconds
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a connection owes its first head at once. One too many is closed at once, since
        uvicorn would refuse only its requests."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            transport.abort()
            return
        self._mind()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """uvicorn's own clock of idle connections stops at the first byte, and no other would start."""
        super().data_received(data)
        self._mind()

    def on_response_complete(self) -> None:
        """What came behind the request may be the beginning of the next."""
        super().on_response_complete()
        self._mind()

    def _mind(self) -> None:
        if not self._owes:
            self._stop()
        elif self._clock is None:
            self._clock = self.loop.call_later(self.head_seconds, self._late)

    @property
    def _owes(self) -> bool:
        if self.cycle is None:
            return True
        begun = self.conn.their_state is not h11.IDLE or bool(self.conn.trailing_data[0])
        return begun and self.cycle.response_complete

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


@dataclass(frozen=True)
class Tls:
    """Files in PEM form: a certificate (with its chain) and its private key."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raises UsageError when they cannot be used together."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
            raise UsageError(
                f"--tls-certificate {self.certificate} and --tls-key {self.key} cannot be used ({reason})."
            ) from None


def http_server(app: FastAPI, limits: Limits, tls: Tls | None = None) -> uvicorn.Server:
    """Serves ``app`` until SIGTERM or Ctrl-C; answers under way are finished first, within
    ``drain_seconds``, and what is not finished then is cancelled (:mod:`weft.server.drain` tells it)."""
    raise_open_files()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        http=type("Protocol", (_Protocol,), {"head_seconds": limits.head_seconds}),
        ws="none",
        # Whoever runs the server stops the models, and a second Ctrl-C broke this off with a traceback.
        lifespan="off",
        backlog=_ACCEPTED_AT_ONCE,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=limits.drain_seconds,
        server_header=False,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn's, with two differences in its beginning and its end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Give the backlog its length again: asyncio accepts as many connections in a turn as it makes places
        in it."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever still waits at a second Ctrl-C is cancelled with all else that runs; from Python 3.12 on it
        would wait for open connections."""
        ending = asyncio.ensure_future(super().shutdown(sockets))
        while not (ending.done() or self.force_exit):
            await asyncio.wait({ending}, timeout=0.1)
        if self.force_exit:
            ending.cancel()
            await asyncio.wait({ending})
        else:
            await ending
