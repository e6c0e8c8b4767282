"""Messages between the server and an engine process: JSON behind its length, over a Unix socket.

JSON and not pickle: what one side sends can never run code on the other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]
Logprob = list[Any]
"""[token id, log probability, [[token id, log probability], ...] of the most likely ones]; the first token of
a prompt, which follows nothing, has None for its log probability."""

_LENGTH = struct.Struct("!I")
LARGEST = 256 * 2**20
"""Bytes of one message; more means that the stream is out of step."""


def pack(message: Message) -> bytes:
    """The bytes of one message."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Messages out of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes. ValueError when the stream is damaged."""
        self._held += data
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if length > LARGEST:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            message = json.loads(body.decode("utf-8", "surrogatepass"))
            if not isinstance(message, dict):
                raise ValueError("a message that is no object")
            yield message
