"""A socket, a server on it, and an orderly end."""

from __future__ import annotations

import errno
import socket

import uvicorn
from fastapi import FastAPI

from weft.core.errors import ResourceError, UsageError

DRAIN_SECONDS = 30
"""How long answers under way may take to finish after SIGTERM or Ctrl-C."""


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
        listener.listen(1024)
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


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; answers under way are finished first, within DRAIN_SECONDS."""
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=DRAIN_SECONDS, server_header=False
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # uvicorn repeats the signal after an orderly end
    finally:
        listener.close()
