"""The answers of one request as OpenAI's JSON: whole, or as the events of a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from weft.server.errors import ApiError
from weft.server.stream import DONE
from weft.server.worker import Answer, EngineFault, Piece

Shape = Literal["completion", "chat"]
_OBJECTS = {
    ("completion", False): "text_completion",
    ("completion", True): "text_completion",
    ("chat", False): "chat.completion",
    ("chat", True): "chat.completion.chunk",
}


class Choices:
    """``answers`` to ``prompts`` (token ids), the samples of a prompt next to each other."""

    def __init__(
        self,
        shape: Shape,
        request_id: str,
        model: str,
        prompts: Sequence[Sequence[int]],
        answers: list[Answer],
    ):
        self._shape, self._id, self._model = shape, request_id, model
        self._answers = answers
        self._prompt_tokens = sum(len(prompt) for prompt in prompts)
        self._tokens = [0] * len(answers)
        self._created = int(time.time())

    async def whole(self) -> dict[str, Any]:
        """All of it at once. Raises EngineFault."""
        parts: list[list[str]] = [[] for _ in self._answers]
        reasons: list[str | None] = [None] * len(self._answers)
        async for index, piece in self._pieces():
            parts[index].append(piece.text)
            reasons[index] = piece.finish_reason
        choices = []
        for index, reason in enumerate(reasons):
            text = "".join(parts[index])
            content: dict[str, Any] = {"text": text}
            if self._shape == "chat":
                content = {"message": {"role": "assistant", "content": text}}
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": reason})
        return {**self._head(False), "choices": choices, "usage": self._usage()}

    async def events(self, include_usage: bool) -> AsyncIterator[dict[str, Any] | str]:
        """The events of a stream; a fault of the engine ends it with an ``error`` event and no [DONE]."""
        blank = {"usage": None} if include_usage else {}
        if self._shape == "chat":
            for index in range(len(self._answers)):
                delta = {"role": "assistant", "content": ""}
                yield {**self._head(True), "choices": [self._choice(index, {"delta": delta})], **blank}
        try:
            async for index, piece in self._pieces():
                if piece.text or piece.last:
                    yield {**self._head(True), "choices": [self._piece(index, piece)], **blank}
        except EngineFault as fault:
            yield ApiError(500, str(fault)).body()
            return
        if include_usage:
            yield {**self._head(True), "choices": [], "usage": self._usage()}
        yield DONE

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces of all answers in the order in which they come."""
        merged: asyncio.Queue[tuple[int, Piece | EngineFault]] = asyncio.Queue(maxsize=len(self._answers))

        async def forward(index: int, answer: Answer) -> None:
            try:
                async for piece in answer.pieces():
                    await merged.put((index, piece))
            except EngineFault as fault:
                await merged.put((index, fault))

        tasks = [asyncio.ensure_future(forward(i, answer)) for i, answer in enumerate(self._answers)]
        left = len(tasks)
        try:
            while left:
                index, piece = await merged.get()
                if isinstance(piece, EngineFault):
                    raise piece
                self._tokens[index] = piece.tokens
                left -= piece.last
                yield index, piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _piece(self, index: int, piece: Piece) -> dict[str, Any]:
        if self._shape == "completion":
            return self._choice(index, {"text": piece.text}, piece.finish_reason)
        delta = {"content": piece.text} if piece.text else {}
        return self._choice(index, {"delta": delta}, piece.finish_reason)

    def _choice(self, index: int, content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": None, "finish_reason": reason}

    def _head(self, stream: bool) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": _OBJECTS[self._shape, stream],
            "created": self._created,
            "model": self._model,
        }

    def _usage(self) -> dict[str, int]:
        new = sum(self._tokens)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self._prompt_tokens + new,
        }
