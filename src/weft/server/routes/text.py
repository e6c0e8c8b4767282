"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from weft.server.errors import ApiError
from weft.server.front import Front, key_of
from weft.server.inputs import DetokenizeRequest, TokenizeRequest
from weft.server.prompts import Prompts


def add(app: FastAPI, front: Front) -> None:
    """Both routes."""

    @app.post("/tokenize")
    async def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
        front.begin(request, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "Give prompt or messages, one of them.", param="prompt")
        if body.prompt is None and body.add_special_tokens:
            message = "add_special_tokens: the chat template says what stands around messages; leave it out."
            raise ApiError(400, message, param="add_special_tokens")
        if body.messages is None and body.add_generation_prompt is not None:
            message = "add_generation_prompt: it is for messages; leave it out."
            raise ApiError(400, message, param="add_generation_prompt")
        try:
            messages = [message.plain() for message in body.messages or ()]
        except ValueError as error:
            raise ApiError(400, f"messages: {error}.", param="messages") from None
        front.admission.request(key_of(request))
        served = await front.models.get(body.model)
        generate = body.add_generation_prompt is not False

        def encode(prompts: Prompts) -> list[int]:
            if body.prompt is None:
                return prompts.conversation(messages, generate=generate, room=0)
            start = [] if body.add_special_tokens is False else prompts.start
            return [*start, *prompts.tokenizer.encode(body.prompt)]

        context = served.prompts.context
        tokens = await served.encoded(await request.body(), encode)
        return {"tokens": tokens, "count": len(tokens), "max_model_len": context}

    @app.post("/detokenize")
    async def detokenize(request: Request, body: DetokenizeRequest) -> dict[str, Any]:
        front.begin(request, body.model)
        front.admission.request(key_of(request))
        served = await front.models.get(body.model)
        raw = await request.body()
        return {"prompt": await served.encoded(raw, lambda prompts: prompts.tokenizer.decode(body.tokens))}
