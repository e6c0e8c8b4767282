"""POST /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from weft.core.errors import UsageError
from weft.server.account import Work
from weft.server.answer import Answer, EngineFault
from weft.server.calls import Constraint
from weft.server.choices import Choices, Shape
from weft.server.errors import ApiError
from weft.server.formats import constraint_of, demanded_by
from weft.server.front import Front, key_of, owner_of
from weft.server.limits import Limits
from weft.server.logprobs import Echo
from weft.server.schema import ChatRequest, CompletionRequest, Sampling, Tool
from weft.server.served import Served
from weft.server.stream import EventStream, unless_gone
from weft.server.tools import Tools

_STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@dataclass(frozen=True)
class _Job:
    """A request, understood: prompts as token ids, and how the answers are to be drawn and shown."""

    shape: Shape
    body: Sampling
    work: Work
    served: Served
    prompts: list[list[int]]
    settings: dict[str, Any]
    samples: int
    best_of: int
    tools: Tools | None = None
    echoes: list[Echo] = field(default_factory=list)
    logprobs: bool = False
    adapter: str | None = None


def add(app: FastAPI, front: Front) -> None:
    """Both routes."""
    _add_completions(app, front)
    _add_chat(app, front)


def _add_completions(app: FastAPI, front: Front) -> None:
    @app.post("/v1/completions", responses=_STREAMS)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        work = front.begin(request, body.model, body.user)
        adapter = front.models.adapter(body.model)
        _check_request(body, front.limits)
        raw = body.prompts()
        if not raw:
            raise ApiError(400, "prompt is an empty list; give at least one prompt.", param="prompt")
        n, best_of = body.n or 1, body.best_of or body.n or 1
        _check_best_of(body, n, best_of)
        _check_count(len(raw), best_of, front, _asks(n, best_of))
        front.admission.request(key_of(request))
        served = await front.models.get_decoder(body.model)
        front.admission.answers(served.engine, len(raw) * best_of, key_of(request), _asks(n, best_of))
        room = 0 if body.echo and body.limit == 0 else 1
        prompts = await served.encoded(
            await request.body(), lambda prompts: [prompts.text(each, room=room) for each in raw]
        )
        settings = _settings(body, served, body.limit, body.logprobs, None, least=room)
        if best_of > n:
            settings.setdefault("logprobs", 0)
        if body.echo and (body.logprobs is not None or not room):
            settings["prompt_logprobs"] = body.logprobs or 0
        _check_supported(settings, served, prompt_logprobs="echo")
        job = _Job(
            "completion",
            body,
            work,
            served,
            prompts,
            settings,
            n,
            best_of,
            echoes=[_echo(prompt, served) for prompt in raw if body.echo],
            logprobs=body.logprobs is not None,
            adapter=adapter,
        )
        return await _answer(request, job, front)


def _add_chat(app: FastAPI, front: Front) -> None:
    @app.post("/v1/chat/completions", responses=_STREAMS)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        work = front.begin(request, body.model, body.user)
        adapter = front.models.adapter(body.model)
        _check_request(body, front.limits)
        n = body.n or 1
        _check_count(1, n, front)
        _check_chat(body)
        constraint = constraint_of(body, front.limits)
        messages = _messages(body)
        front.admission.request(key_of(request))
        if constraint is not None:
            trial = front.models.trials.check(constraint, owner_of(request), demanded_by(body))
            if await unless_gone(trial, request.receive) is None:
                return Response(status_code=499)
        served = await front.models.get_decoder(body.model)
        front.admission.answers(served.engine, n, key_of(request))
        offered = [] if body.tool_choice == "none" else body.tools or []
        described = [tool.model_dump(exclude_none=True) for tool in offered]
        prompt = await served.encoded(
            await request.body(), lambda prompts: prompts.conversation(messages, described)
        )
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        settings = _settings(body, served, body.limit, logprobs, constraint)
        _check_supported(settings, served, grammar=demanded_by(body))
        job = _Job(
            "chat",
            body,
            work,
            served,
            [prompt],
            settings,
            n,
            n,
            _tools(body, offered),
            logprobs=bool(body.logprobs),
            adapter=adapter,
        )
        return await _answer(request, job, front)


async def _answer(request: Request, job: _Job, front: Front) -> Response:
    engine, owner = job.served.engine, owner_of(request)
    # Once more: others may have taken the places while its texts were encoded.
    count, param = len(job.prompts) * job.best_of, _asks(job.samples, job.best_of)
    front.admission.answers(engine, count, key_of(request), param)
    answers: list[Answer] = []
    try:
        for prompt in job.prompts:
            answers += [
                engine.submit(prompt, {**job.settings, "sample": index}, owner, job.adapter)
                for index in range(job.best_of)
            ]
    except EngineFault:
        for answer in answers:
            engine.abort(answer)
        raise
    job.work.prompt_tokens, job.work.answers = sum(map(len, job.prompts)), answers
    choices = Choices(
        job.shape,
        f"{job.shape}-{secrets.token_hex(12)}",
        job.adapter or job.served.name,
        job.served.prompts.tokenizer,
        job.prompts,
        answers,
        engine.abort,
        logprobs=job.logprobs,
        tools=job.tools,
        echoes=job.echoes,
        best_of=job.best_of,
        keep=job.samples,
    )

    def close() -> None:
        for answer in answers:
            engine.abort(answer)

    if job.body.stream:
        # What the engine refuses is an error of the request, so it must be known before the stream begins.
        try:
            taken = await unless_gone(_all_taken(answers), request.receive)
        except BaseException:
            close()
            raise
        if taken is None:
            close()
            return Response(status_code=499)
        events = choices.events(job.body.include_usage, job.body.continuous_usage)
        return EventStream(events, close, front.limits.send_seconds)
    try:
        whole = await unless_gone(choices.whole(), request.receive)
    finally:
        close()
    # 499 is what proxies log for a client that left; nobody reads this answer.
    return Response(status_code=499) if whole is None else whole


def _asks(n: int, best_of: int) -> str:
    """The field that asks for several answers."""
    return "best_of" if best_of > n else "n"


def _tools(body: ChatRequest, offered: list[Tool]) -> Tools | None:
    if not offered:
        return None
    return Tools(
        frozenset(tool.function.name for tool in offered),
        forced=body.tool_choice not in (None, "auto"),
        single=body.parallel_tool_calls is False,
    )


def _echo(prompt: str | list[int], served: Served) -> Echo:
    """What of a prompt stands before its answer. DataError for ids that have no text."""
    if isinstance(prompt, str):
        return Echo(prompt)
    return Echo(served.prompts.tokenizer.decode(prompt), from_ids=True)


async def _all_taken(answers: list[Answer]) -> bool:
    for answer in answers:
        await answer.taken()
    return True


def _settings(
    body: Sampling,
    served: Served,
    limit: int | None,
    logprobs: int | None,
    constraint: Constraint | None,
    least: int = 1,
) -> dict[str, Any]:
    """The engine's settings. Raises UsageError for lengths, ApiError 400 for biases of no tokens."""
    context = served.prompts.context
    other = body.max_tokens is None and isinstance(body, ChatRequest)
    named = "max_completion_tokens" if other else "max_tokens"
    if limit is not None and limit > context:
        raise UsageError(f"{named} = {limit} is more than the context of {context} tokens can hold.")
    if limit is not None and limit < least:
        also = "; it may be 0 with echo" if isinstance(body, CompletionRequest) else ""
        raise UsageError(f"{named} = {limit} must be at least 1{also}.")
    try:
        given = body.settings()
    except ValueError:
        message = 'logit_bias: its keys must be token ids, written as text such as "42".'
        raise ApiError(400, message, param="logit_bias") from None
    given |= {} if limit is None else {"max_tokens": limit}
    given |= {} if logprobs is None else {"logprobs": logprobs}
    given |= {} if constraint is None else {"grammar": constraint}
    return given


def _check_supported(settings: dict[str, Any], served: Served, **fields: str) -> None:
    """Raises ApiError 400 for what the engine cannot do; ``fields`` are those that asked for a setting."""
    for name in settings.keys() - set(served.engine.facts["supported"]):
        field_name = fields.get(name, name)
        left_out = "strict" if field_name == "tools" else "the field"
        message = f"{field_name}: this engine cannot do this; leave {left_out} out."
        raise ApiError(400, message, param=field_name)


def _check_request(body: Sampling, limits: Limits) -> None:
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream = true.", param="stream_options")
    if "" in body.stops:
        raise ApiError(400, "stop holds an empty text; leave it out.", param="stop")
    if len(body.stops) > limits.stops or any(len(stop) > limits.stop_characters for stop in body.stops):
        message = f"stop holds at most {limits.stops} texts of {limits.stop_characters} characters each."
        raise ApiError(400, message, param="stop")


def _check_chat(body: ChatRequest) -> None:
    if None not in (body.max_tokens, body.limit) and body.max_tokens != body.limit:
        message = "max_tokens and max_completion_tokens differ; give one of them."
        raise ApiError(400, message, param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs = true.", param="top_logprobs")


def _check_best_of(body: CompletionRequest, n: int, best_of: int) -> None:
    if best_of < n:
        raise ApiError(400, f"best_of = {best_of} must be at least n = {n}.", param="best_of")
    if best_of > n and body.stream:
        raise ApiError(
            400, "A stream cannot wait for the best of several; leave best_of out.", param="best_of"
        )


def _check_count(prompts: int, each: int, front: Front, param: str = "n") -> None:
    count, most = prompts * each, front.limits.choices
    if count > most:
        message = f"{prompts} prompts with {param} = {each} are {count} answers; {most} are allowed."
        raise ApiError(400, message, param=param)


def _messages(body: ChatRequest) -> list[dict[str, Any]]:
    try:
        return [message.plain() for message in body.messages]
    except ValueError as error:
        raise ApiError(400, f"messages: {error}.", param="messages") from None
