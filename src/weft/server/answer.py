"""A request under way, as the routes see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from weft.server.wire import Logprob


@dataclass(frozen=True)
class Piece:
    """New text of an answer; ``tokens`` counts all new tokens so far, ``logprobs`` are of the new ones.

    ``prompt`` has the log probabilities of the prompt's tokens, in the first piece alone if they are wanted.
    """

    text: str
    tokens: int
    finish_reason: str | None = None
    logprobs: list[Logprob] | None = None
    prompt: list[Logprob] | None = None


@dataclass(frozen=True)
class Made:
    """The record of a task, whole; ``tokens`` are those that the model wrote for it."""

    record: dict[str, Any]
    tokens: int


class EngineFault(Exception):
    """The engine failed while it worked on this answer; ``status`` is the HTTP status that tells it."""

    def __init__(self, message: str, status: int = 500):
        super().__init__(message)
        self.status = status


class Answer:
    """What an engine sends for one request, read on the event loop; times are those of ``monotonic``."""

    def __init__(self, name: int, owner: str):
        self.name, self.owner = name, owner
        self.done = False
        self.tokens = 0
        self.submitted = time.monotonic()
        self.first: float | None = None
        self.ended: float | None = None
        self._taken = asyncio.Event()
        self._fault: EngineFault | None = None
        self._inbox: asyncio.Queue[Piece | Made | EngineFault | str] = asyncio.Queue()

    async def taken(self) -> None:
        """Wait until the engine has accepted the request. Raises EngineFault when it refuses it."""
        await self._taken.wait()
        if self._fault is not None:
            raise self._fault

    @property
    def fault(self) -> EngineFault | None:
        """What broke it off; None while it is open and when it is whole."""
        return self._fault

    def accept(self) -> None:
        """The engine has it."""
        self._taken.set()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces as they come, the last one with its finish reason. Raises EngineFault."""
        while True:
            piece = await self._inbox.get()
            if isinstance(piece, EngineFault):
                raise piece
            assert isinstance(piece, Piece)
            yield piece
            if piece.finish_reason is not None:
                return

    async def vector(self) -> str:
        """The embedding as base64 of little-endian float32. Raises EngineFault."""
        found = await self._inbox.get()
        if isinstance(found, EngineFault):
            raise found
        assert isinstance(found, str)
        return found

    async def record(self) -> dict[str, Any]:
        """The record of a task. Raises EngineFault."""
        found = await self._inbox.get()
        if isinstance(found, EngineFault):
            raise found
        assert isinstance(found, Made)
        return found.record

    def suffice(self) -> None:
        """What came is the whole answer: the rest is dropped, and that it is aborted is no fault."""
        if not self.done:
            self.done, self.ended = True, time.monotonic()

    def put(self, item: Piece | Made | EngineFault | str) -> None:
        """Hand over what came; anything after the last piece is dropped."""
        if self.done:
            return
        now = time.monotonic()
        self._taken.set()
        if isinstance(item, EngineFault):
            self._fault = item
        if isinstance(item, Piece):
            if self.first is None and item.tokens:
                self.first = now
            self.tokens = item.tokens
        if isinstance(item, Made):
            self.tokens = item.tokens
        if not isinstance(item, Piece) or item.finish_reason is not None:
            self.done, self.ended = True, now
        self._inbox.put_nowait(item)


def record_of(piece: Piece) -> dict[str, Any]:
    """What a message holds of a piece; :func:`plain` reads it."""
    told = {"finish": piece.finish_reason, "logprobs": piece.logprobs, "prompt_logprobs": piece.prompt}
    given = {name: value for name, value in told.items() if value is not None}
    return {"text": piece.text, "tokens": piece.tokens, **given}


def plain(record: dict[str, Any]) -> Piece:
    """The piece that an engine's message holds."""
    scores, prompt = record.get("logprobs"), record.get("prompt_logprobs")
    return Piece(record["text"], record["tokens"], record.get("finish"), scores, prompt)


def news(item: dict[str, Any]) -> Piece | Made | str:
    """What an engine's message tells of one request."""
    if "vector" in item:
        return str(item["vector"])
    return Made(item["record"], item["tokens"]) if "record" in item else plain(item)
