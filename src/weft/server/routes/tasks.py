"""POST /v1/tasks/{task}, and GET /v1/tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from weft.api.able import CALLS, refusal
from weft.core.registry import nearest
from weft.server import task_bodies as bodies
from weft.server.answer import Answer
from weft.server.errors import LONG, ApiError
from weft.server.front import Front, key_of, owner_of
from weft.server.prompts import Prompts
from weft.server.stream import unless_gone

Items = list[dict[str, Any]]


def add(app: FastAPI, front: Front) -> None:
    """All of them."""
    _add_written(app, front)
    _add_read(app, front)

    @app.get("/v1/tasks")
    async def tasks() -> dict[str, Any]:
        """The tasks that the models can do, loaded or not."""
        able = {task: [one.name for one in front.models.all() if task in one.tasks] for task in CALLS}
        found = [{"id": task, "object": "task", "models": names} for task, names in able.items() if names]
        return {"object": "list", "data": found}

    @app.post("/v1/tasks/{task}", include_in_schema=False)
    async def unknown(task: str) -> Response:
        guess = nearest(task, CALLS)
        hint = f"did you mean {guess!r}?" if guess else f"choose one of: {', '.join(CALLS)}."
        raise ApiError(404, f"There is no task {task!r}; {hint}")


def _add_written(app: FastAPI, front: Front) -> None:
    @app.post("/v1/tasks/translate", response_model=bodies.TaskAnswer[bodies.Text])
    async def translate(request: Request, body: bodies.TranslateBody) -> Response:
        return await _answer(request, front, "translate", body)

    @app.post("/v1/tasks/summarize", response_model=bodies.TaskAnswer[bodies.Text])
    async def summarize(request: Request, body: bodies.SummarizeBody) -> Response:
        return await _answer(request, front, "summarize", body)


def _add_read(app: FastAPI, front: Front) -> None:
    @app.post("/v1/tasks/classify", response_model=bodies.TaskAnswer[bodies.Label])
    async def classify(request: Request, body: bodies.TextBody) -> Response:
        return await _answer(request, front, "classify", body)

    @app.post("/v1/tasks/sentiment", response_model=bodies.TaskAnswer[bodies.Label])
    async def sentiment(request: Request, body: bodies.TextBody) -> Response:
        return await _answer(request, front, "sentiment", body)

    @app.post("/v1/tasks/entities", response_model=bodies.TaskAnswer[bodies.Pieces])
    async def entities(request: Request, body: bodies.TextBody) -> Response:
        return await _answer(request, front, "entities", body)

    @app.post("/v1/tasks/roles", response_model=bodies.TaskAnswer[bodies.Pieces])
    async def roles(request: Request, body: bodies.RolesBody) -> Response:
        return await _answer(request, front, "roles", body)

    @app.post("/v1/tasks/answer", response_model=bodies.TaskAnswer[bodies.Piece])
    async def answer(request: Request, body: bodies.AnswerBody) -> Response:
        return await _answer(request, front, "answer", body)

    @app.post("/v1/tasks/embed", response_model=bodies.TaskAnswer[bodies.Vector])
    async def embed(request: Request, body: bodies.TextBody) -> Response:
        return await _answer(request, front, "embed", body)


async def _answer(request: Request, front: Front, task: str, body: bodies.TaskBody) -> Response:
    work = front.begin(request, body.model, body.user)
    try:
        items = body.items()
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    front.admission.request(key_of(request))
    served = await front.models.get(body.model)
    if task not in served.tasks:
        raise refusal(served.engine.facts.get("architecture", "model"), CALLS[task])
    front.admission.answers(served.engine, len(items), key_of(request), "input")
    facts = served.engine.facts
    tokens = await served.encoded(await request.body(), lambda prompts: _tokens(prompts, facts, items))
    front.admission.answers(served.engine, len(items), key_of(request), "input")
    work.prompt_tokens, answers = tokens, work.answers
    try:
        settings, owner = body.settings(task), owner_of(request)
        for item in items:
            answers.append(served.engine.do(task, item, settings, owner))
        results = await unless_gone(_records(answers), request.receive)
    finally:
        for answer in answers:
            served.engine.abort(answer)
    if results is None:
        return Response(status_code=499)
    written = sum(answer.tokens for answer in answers)
    usage = {"prompt_tokens": tokens, "completion_tokens": written, "total_tokens": tokens + written}
    return JSONResponse(
        {"object": "task", "task": task, "model": served.name, "results": results, "usage": usage}
    )


async def _records(answers: list[Answer]) -> Items:
    return [await answer.record() for answer in answers]


def _tokens(prompts: Prompts, facts: Mapping[str, Any], items: Items) -> int:
    """The tokens of all texts. ApiError 400 for one that is longer than the model reads, before it waits.

    The engine, which knows what stands around a text, has the last word.
    """
    total = 0
    for number, item in enumerate(items):
        texts = {name: item[name] for name in ("text", "question", "context") if name in item}
        for name, ids in zip(texts, prompts.tokenizer.encode_batch(list(texts.values())), strict=True):
            most = facts["context"] * (1 if name == "question" else facts["windows"])
            if len(ids) > most:
                message = f"Text {number} has {len(ids)} tokens and this model reads at most {most}."
                raise ApiError(400, message, param="input" if name == "text" else name, code=LONG)
            total += len(ids)
    return total
