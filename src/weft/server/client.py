"""A small HTTP client for streams of events: one connection a request, no buffering, exact times."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import h11

from weft.core.errors import UsageError


class Refused(Exception):
    """An answer other than 200; ``status`` is 0 where none came at all."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class EventClient:
    """Speaks to ``address``, such as ``http://127.0.0.1:8000/v1``. UsageError for one that is none."""

    def __init__(self, address: str, key: str | None = None):
        wrong = UsageError(f"{address!r} is no address of a server; write http://HOST:PORT/v1.")
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("http", "https") or not host:
            raise wrong
        if key is not None and not (key.isascii() and key.isprintable()):
            raise UsageError("The key holds characters that no key has, such as a line break; copy it again.")
        self._host, self._base = host, quote(parts.path.rstrip("/"), safe="/%")
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = port or (443 if self._ssl else 80)
        self._headers = [
            ("Host", parts.netloc),
            ("Connection", "close"),
            ("Content-Type", "application/json"),
        ]
        if key is not None:
            self._headers.append(("Authorization", f"Bearer {key}"))

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The JSON events of a streamed answer, up to ``[DONE]``. Raises Refused."""
        held = b""
        async with contextlib.aclosing(self._data("POST", path, json.dumps(body).encode())) as data:
            async for piece in data:
                *lines, held = (held + piece).split(b"\n")
                for line in lines:
                    # Other fields, comments that keep a connection open and empty lines are no events.
                    if not line.startswith(b"data:"):
                        continue
                    text = line.removeprefix(b"data:").strip()
                    if text == b"[DONE]":
                        return
                    yield _event(text)
        raise Refused(0, "The stream ended without [DONE].")

    async def get(self, path: str) -> Any:
        """The JSON at ``path``. Raises Refused."""
        async with contextlib.aclosing(self._data("GET", path, b"")) as data:
            text = b"".join([piece async for piece in data])
        try:
            return json.loads(text)
        except ValueError:
            raise Refused(0, f"The server sent what is no JSON: {_short(text)}") from None

    async def _data(self, method: str, path: str, body: bytes) -> AsyncGenerator[bytes]:
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._ssl)
        except OSError as error:
            raise Refused(0, f"{self._host}:{self._port} does not answer ({error}).") from None
        try:
            connection = h11.Connection(h11.CLIENT)
            headers = [*self._headers, ("Content-Length", str(len(body)))]
            head = connection.send(h11.Request(method=method, target=self._base + path, headers=headers))
            writer.write((head or b"") + (connection.send(h11.Data(body)) or b""))
            connection.send(h11.EndOfMessage())
            async for piece in _answer(connection, reader):
                yield piece
        except (OSError, h11.RemoteProtocolError) as error:
            raise Refused(0, f"The connection broke ({error}).") from None
        finally:
            writer.close()


def _event(text: bytes) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise Refused(0, f"The server sent what is no event: {_short(text)}")
    if (error := event.get("error")) is not None:
        raise Refused(500, str(error.get("message", error) if isinstance(error, dict) else error))
    return event


def _short(text: bytes) -> str:
    return text.decode("utf-8", "replace")[:300]


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """The body of the answer; Refused with the server's own words when it is not 200."""
    status, refusal = 200, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            if status == 200:
                yield bytes(event.data)
            else:
                refusal += event.data
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
            break
    if status != 200:
        message = _short(refusal)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            message = str(json.loads(refusal)["error"]["message"])
        raise Refused(status, message)
