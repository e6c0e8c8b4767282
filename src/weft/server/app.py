"""The routes: /v1/models, /v1/completions, /v1/chat/completions, /health and the page.

It fetches no URL and loads no code. FastAPI's own documentation pages are off because they would load
scripts from elsewhere; /openapi.json is there.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.core.errors import UsageError
from weft.server import errors
from weft.server.choices import Choices, Shape
from weft.server.errors import ApiError
from weft.server.limits import BodyLimit, Limits
from weft.server.schema import ChatRequest, CompletionRequest, Sampling
from weft.server.stream import EventStream, unless_gone
from weft.server.worker import EngineFault, Worker

PAGE = Path(__file__).parent / "page"
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def create_app(worker: Worker, name: str, limits: Limits | None = None) -> FastAPI:
    """The application that serves ``worker`` as the model ``name``; it starts and stops the worker."""
    limits = limits or Limits()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)

    app = FastAPI(title="Weft", docs_url=None, redoc_url=None, lifespan=lifespan)
    errors.install(app)
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(SafeHeaders)
    _add_page(app)
    _add_models(app, worker, name)
    _add_generation(app, worker, name, limits)
    return app


class SafeHeaders:
    """ASGI middleware: the page may load only what this server sends, and nobody may frame it."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the headers to every answer."""

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


def _add_page(app: FastAPI) -> None:
    types = {"index.html": "text/html", "style.css": "text/css", "app.js": "text/javascript"}

    def add(path: str, file: str) -> None:
        async def page() -> Response:
            return FileResponse(PAGE / file, media_type=types[file], headers={"cache-control": "no-cache"})

        app.add_api_route(path, page, methods=["GET"], include_in_schema=False)

    add("/", "index.html")
    for file in types:
        add(f"/page/{file}", file)


def _add_models(app: FastAPI, worker: Worker, name: str) -> None:
    model = {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "weft",
        "max_model_len": worker.context,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{model_id:path}")
    async def one_model(model_id: str) -> dict[str, Any]:
        _check_model(model_id, name)
        return model

    @app.get("/health")
    async def health() -> Response:
        status = "ok" if worker.running else "the engine has stopped"
        record = {"status": status, "active": worker.active, "waiting": worker.waiting, "slots": worker.slots}
        return JSONResponse(record, 200 if worker.running else 503)


def _add_generation(app: FastAPI, worker: Worker, name: str, limits: Limits) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request, body: CompletionRequest) -> Response:
        _check_request(body, name, limits)
        raw = body.prompts()
        if not raw:
            raise ApiError(400, "prompt is an empty list; give at least one prompt.", param="prompt")
        _check_choices(len(raw), body, limits)
        prompts = await run_in_threadpool(lambda: [worker.encode(prompt) for prompt in raw])
        return await answer(request, body, "completion", prompts, body.limit)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        _check_request(body, name, limits)
        _check_choices(1, body, limits)
        messages = [message.plain() for message in body.messages]
        prompt = await run_in_threadpool(worker.encode_chat, messages)
        return await answer(request, body, "chat", [prompt], body.limit)

    async def answer(
        request: Request, body: Sampling, shape: Shape, prompts: list[list[int]], limit: int | None
    ) -> Response:
        if limit is not None and limit > worker.context:
            raise UsageError(
                f"max_tokens = {limit} is more than the context of {worker.context} tokens can hold."
            )
        params = body.params(limit)
        count = len(prompts) * (body.n or 1)
        if max(0, worker.active + count - worker.slots) > limits.waiting:
            after = {"Retry-After": str(limits.retry_after_seconds)}
            raise ApiError(429, "The queue is full; try again later.", code="queue_full", headers=after)
        answers = [
            worker.submit(prompt, params.sample(index)) for prompt in prompts for index in range(body.n or 1)
        ]
        choices = Choices(shape, f"{shape}-{secrets.token_hex(12)}", name, prompts, answers)

        def close() -> None:
            for one in answers:
                worker.abort(one)

        if body.stream:
            return EventStream(choices.events(body.include_usage), close)
        try:
            whole = await unless_gone(choices.whole(), request.receive)
        except EngineFault as fault:
            return ApiError(500, str(fault)).response()
        finally:
            close()
        # 499 is what proxies log for a client that left; nobody reads this answer.
        return Response(status_code=499) if whole is None else JSONResponse(whole)


def _check_model(asked: str | None, name: str) -> None:
    if asked is not None and asked != name:
        message = f"There is no model {asked!r} here; this server has {name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")


def _check_request(body: Sampling, name: str, limits: Limits) -> None:
    _check_model(body.model, name)
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream = true.", param="stream_options")
    if len(body.stops) > limits.stops or any(len(stop) > limits.stop_characters for stop in body.stops):
        message = f"stop holds at most {limits.stops} texts of {limits.stop_characters} characters each."
        raise ApiError(400, message, param="stop")


def _check_choices(prompts: int, body: Sampling, limits: Limits) -> None:
    count = prompts * (body.n or 1)
    if count > limits.choices:
        message = (
            f"{prompts} prompts with n = {body.n or 1} are {count} answers; {limits.choices} are allowed."
        )
        raise ApiError(400, message, param="n")
