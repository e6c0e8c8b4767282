"""POST /v1/embeddings and /v1/rerank.

A decoder has no trained embedding: the vector is the mean of its last hidden states, of length 1, and a
document's relevance is the cosine of its vector and the query's. That is what a language model gives
without training for it; a model trained to embed or to rank does better.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from weft.server.account import Work
from weft.server.backend import Backend
from weft.server.errors import ApiError
from weft.server.front import Front, key_of, owner_of
from weft.server.inputs import EmbeddingRequest, RerankRequest
from weft.server.long_list import written
from weft.server.served import Served
from weft.server.stream import unless_gone

Vectors = npt.NDArray[np.float32]


def add(app: FastAPI, front: Front) -> None:
    """Both routes."""

    @app.post("/v1/embeddings")
    async def embeddings(request: Request, body: EmbeddingRequest) -> Response:
        inputs = body.inputs()
        if not inputs:
            raise ApiError(400, "input is an empty list; give at least one text.", param="input")
        made = await _vectors(request, front, body.model, inputs, body.user, "input", body.dimensions)
        if made is None:
            return Response(status_code=499)
        served, vectors, tokens = made
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        data = (
            {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        )
        return await written({"object": "list", "model": served.name, "usage": usage}, "data", data)

    @app.post("/v1/rerank")
    async def rerank(request: Request, body: RerankRequest) -> Response:
        texts = [body.query, *body.documents]
        made = await _vectors(request, front, body.model, texts, body.user, "documents")
        if made is None:
            return Response(status_code=499)
        served, vectors, tokens = made
        # Of equal texts rounding may give a little more than 1.
        scores = np.clip(vectors[1:] @ vectors[0], -1, 1).tolist()
        # Equal scores keep the order in which the documents came.
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": scores[index]} for index in order
        ]
        if body.return_documents:
            for result in results:
                result["document"] = {"text": body.documents[result["index"]]}
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        name = f"rerank-{secrets.token_hex(12)}"
        return JSONResponse({"id": name, "model": served.name, "results": results, "usage": usage})


async def _vectors(
    request: Request,
    front: Front,
    model: str | None,
    inputs: Sequence[str | list[int]],
    user: str | None,
    param: str,
    dimensions: int | None = None,
) -> tuple[Served, Vectors, int] | None:
    """Unit vectors [inputs, E] and the tokens of all inputs; None when the client is gone."""
    work = front.begin(request, model, user)
    if len(inputs) > front.limits.documents:
        message = f"{len(inputs)} texts came; {front.limits.documents} are allowed in one request."
        raise ApiError(400, message, param=param)
    if front.models.adapter(model) is not None:
        raise ApiError(400, f"{model} is an adapter, and vectors come from whole models.", param="model")
    front.admission.request(key_of(request))
    served = await front.models.get(model)
    _check_dimensions(dimensions, served)
    front.admission.answers(served.engine, 1, key_of(request))
    with served.using():
        prompts = await served.encoded(
            await request.body(),
            lambda prompts: [prompts.text(text, room=0, param=param) for text in inputs],
        )
        # The inputs of one request go through the engine one after another, so they take one place.
        front.admission.answers(served.engine, 1, key_of(request))
        vectors = _all(served.engine, prompts, owner_of(request), work)
        found = await unless_gone(vectors, request.receive)
    return None if found is None else (served, np.stack(found), work.prompt_tokens)


def _check_dimensions(asked: int | None, served: Served) -> None:
    """Raises ApiError 400 for another number than the vectors have."""
    there = served.engine.facts["hidden"]
    if asked is not None and asked != there:
        message = f"The vectors of {served.name!r} have {there} dimensions and cannot be cut to {asked}."
        raise ApiError(400, message, param="dimensions")


async def _all(engine: Backend, prompts: list[list[int]], owner: str, work: Work) -> list[Vectors]:
    """The vectors, one after another; what was read is counted, however the request ends."""
    found = []
    for prompt in prompts:
        answer = engine.embed(prompt, owner)
        try:
            found.append(np.frombuffer(base64.b64decode(await answer.vector()), "<f4"))
            work.prompt_tokens += len(prompt)
        finally:
            engine.abort(answer)
    return found


def _written(vector: Vectors, form: str | None) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]
