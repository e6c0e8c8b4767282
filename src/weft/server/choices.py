"""The answers of one request as OpenAI's JSON: whole, or as the events of a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import JSONResponse, Response

from weft.server.answer import Answer, EngineFault, Piece
from weft.server.errors import ApiError
from weft.server.logprobs import Echo, Places, chat_logprobs, completion_logprobs
from weft.server.long_list import written
from weft.server.stream import DONE
from weft.server.tools import Call, CallReader, Tools
from weft.server.wire import Logprob
from weft.tokenizer import Tokenizer

Shape = Literal["completion", "chat"]
_OBJECTS = {
    ("completion", False): "text_completion",
    ("completion", True): "text_completion",
    ("chat", False): "chat.completion",
    ("chat", True): "chat.completion.chunk",
}


@dataclass
class _Choice:
    """One answer as far as it has come. ``echo`` is the prompt's text where it must stand in front;
    ``prompt`` are the log probabilities of its tokens, if they are wanted."""

    echo: str
    reader: CallReader | None
    places: Places
    prompt: list[Logprob] = field(default_factory=list)
    tokens: int = 0
    parts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    reason: str | None = None


class Choices:
    """``answers`` to ``prompts`` (token ids), the samples of a prompt next to each other.

    Of ``best_of`` samples of a prompt the ``keep`` likeliest are shown (whole answers only). ``tools`` are
    the functions that the model may call; ``abort`` ends an answer behind the only call that it may have.
    ``echoes`` has a text for every prompt, or is empty; with
    ``logprobs`` it comes with those of the prompt.
    """

    def __init__(
        self,
        shape: Shape,
        request_id: str,
        model: str,
        tokenizer: Tokenizer,
        prompts: Sequence[Sequence[int]],
        answers: list[Answer],
        abort: Callable[[Answer], None],
        *,
        logprobs: bool = False,
        tools: Tools | None = None,
        echoes: Sequence[Echo] = (),
        best_of: int = 1,
        keep: int = 1,
    ):
        self._shape, self._id, self._model, self._tokenizer = shape, request_id, model, tokenizer
        self._answers, self._abort, self._wants_logprobs = answers, abort, logprobs
        self._prompt_tokens = sum(map(len, prompts))
        self._best_of, self._keep = best_of, keep
        fronts: Sequence[Echo | None] = echoes or [None] * len(prompts)
        self._choices = [
            _Choice(
                echo.text if echo else "",
                CallReader(tools) if tools else None,
                Places(tokenizer, prompt, echo),
            )
            for prompt, echo in zip(prompts, fronts, strict=True)
            for _ in range(best_of)
        ]
        self._created = int(time.time())

    async def whole(self) -> Response:
        """All of it at once. Raises EngineFault."""
        async for index, piece in self._pieces():
            self._take(self._choices[index], piece)
        head = {**self._head(False), "usage": self.usage()}
        choices = ({"index": place, **self._whole(choice)} for place, choice in enumerate(self._chosen()))
        if self._wants_logprobs:
            return await written(head, "choices", choices)
        return JSONResponse({**head, "choices": list(choices)})

    async def events(self, include_usage: bool, continuous: bool) -> AsyncIterator[dict[str, Any] | str]:
        """The events of a stream; a fault of the engine ends it with an ``error`` event and no [DONE].

        With ``continuous`` every event has the usage so far, with ``include_usage`` the last one has it.
        """

        def usage() -> dict[str, Any]:
            if continuous:
                return {"usage": self.usage()}
            return {"usage": None} if include_usage else {}

        for index, choice in enumerate(self._choices):
            # With log probabilities the echo waits for those of the prompt.
            first: dict[str, Any] = {"text": choice.echo} if choice.echo and not self._wants_logprobs else {}
            if self._shape == "chat":
                first = {"delta": {"role": "assistant", "content": ""}}
            if first:
                yield {**self._head(True), "choices": [self._part(index, first, None, None)], **usage()}
        try:
            async for index, piece in self._pieces():
                for part in self._parts(index, piece):
                    yield {**self._head(True), "choices": [part], **usage()}
        except EngineFault as fault:
            yield ApiError(fault.status, str(fault)).body()
            return
        if include_usage:
            yield {**self._head(True), "choices": [], "usage": self.usage()}
        yield DONE

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts and of all answers so far."""
        new = sum(choice.tokens for choice in self._choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self._prompt_tokens + new,
        }

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces of all answers in the order in which they come; a choice that has its reason is over."""
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
                choice = self._choices[index]
                if choice.reason is not None:
                    continue  # the engine went on until it heard of the end
                if isinstance(piece, EngineFault):
                    raise piece
                choice.tokens = piece.tokens
                yield index, piece
                left -= choice.reason is not None
                if choice.reason is not None and piece.finish_reason is None:
                    self._answers[index].suffice()
                    self._abort(self._answers[index])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, choice: _Choice, piece: Piece) -> tuple[str, list[Call]]:
        """Add a piece to a choice; what of it is text and what is calls."""
        text, reader, reason = piece.text, choice.reader, piece.finish_reason
        calls: list[Call] = []
        if reader is not None:
            text, calls = reader.push(piece.text, last=reason)
        choice.parts.append(text)
        choice.calls += calls
        choice.logprobs += piece.logprobs or []
        choice.prompt += piece.prompt or []
        if reader is not None and choice.calls and not reader.cut and (reader.ended or reason == "stop"):
            reason = "tool_calls"
        choice.reason = reason
        return text, calls

    def _chosen(self) -> list[_Choice]:
        if self._best_of == self._keep:
            return self._choices
        kept: list[_Choice] = []
        for start in range(0, len(self._choices), self._best_of):
            group = self._choices[start : start + self._best_of]
            kept += sorted(group, key=_mean_logprob, reverse=True)[: self._keep]
        return kept

    def _whole(self, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.parts)
        logprobs = self._logprobs(choice, choice.logprobs, choice.prompt)
        if self._shape == "completion":
            return {"text": choice.echo + text, "logprobs": logprobs, "finish_reason": choice.reason}
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if choice.calls:
            message["content"] = text or None
            message["tool_calls"] = [call.record() for call in choice.calls]
        return {"message": message, "logprobs": logprobs, "finish_reason": choice.reason}

    def _parts(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        choice = self._choices[index]
        before = len(choice.calls)
        text, calls = self._take(choice, piece)
        front: list[dict[str, Any]] = []
        if self._wants_logprobs and piece.prompt:
            scores = self._logprobs(choice, [], piece.prompt)
            front = [self._part(index, {"text": choice.echo}, scores, None)]
        if not (text or calls or piece.logprobs or choice.reason):
            return front
        logprobs = self._logprobs(choice, piece.logprobs or [])
        if self._shape == "completion":
            return [*front, self._part(index, {"text": text}, logprobs, choice.reason)]
        delta: dict[str, Any] = {"content": text} if text else {}
        if calls:
            delta["tool_calls"] = [call.record(before + place) for place, call in enumerate(calls)]
        parts = [self._part(index, {"delta": delta}, logprobs, None)] if delta or piece.logprobs else []
        if choice.reason is not None:
            # OpenAI's client tells that a call is whole only from a later event, so the end has its own.
            parts.append(self._part(index, {"delta": {}}, None, choice.reason))
        return parts

    def _logprobs(
        self, choice: _Choice, entries: list[Logprob], prompt: Sequence[Logprob] = ()
    ) -> dict[str, Any] | None:
        if not self._wants_logprobs:
            return None
        if self._shape == "chat":
            return chat_logprobs(self._tokenizer, entries)
        places = choice.places.of_prompt([token for token, _, _ in prompt])
        places += choice.places.of_answer([token for token, _, _ in entries])
        return completion_logprobs(self._tokenizer, [*prompt, *entries], places)

    def _part(
        self, index: int, content: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}

    def _head(self, stream: bool) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": _OBJECTS[self._shape, stream],
            "created": self._created,
            "model": self._model,
        }


def _mean_logprob(choice: _Choice) -> float:
    values: list[float] = [value for _, value, _ in choice.logprobs]
    return sum(values) / max(1, len(values))
