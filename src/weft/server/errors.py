"""Errors as OpenAI's API spells them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from weft.core.errors import DataError, UsageError
from weft.server.answer import EngineFault
from weft.server.prompts import LongPrompt

LONG = "context_length_exceeded"
"""OpenAI's code for what the context cannot hold; clients that shorten and ask again look for it."""
_TYPES = ("str", "int", "float", "bool")
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorDetail(BaseModel):
    """What is wrong: one sentence, its kind, and the field that it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer of 400 and above."""

    error: ErrorDetail


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorBody, "description": "What is wrong, in OpenAI's form."}
}
"""For /openapi.json: the errors that any route may give."""


class ApiError(Exception):
    """An answer other than 200, with its one sentence."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The HTTP answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` leave in this form."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(EngineFault)
    async def _engine(request: Request, error: EngineFault) -> Response:
        after = {"Retry-After": "5"} if error.status == 503 else None
        param = _begins_with(_body(request), str(error)) if error.status == 400 else None
        return ApiError(error.status, str(error), param=param, headers=after).response()

    @app.exception_handler(LongPrompt)
    async def _long(request: Request, error: LongPrompt) -> Response:
        return ApiError(400, str(error), param=error.param, code=LONG).response()

    @app.exception_handler(UsageError)
    @app.exception_handler(DataError)
    async def _request(request: Request, error: Exception) -> Response:
        return ApiError(400, str(error), param=_begins_with(_body(request), str(error))).response()

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return _explain(error, _body(request)).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return ApiError(error.status_code, f"{error.detail}.", headers=error.headers).response()

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> Response:
        return ApiError(500, "The server made a mistake; its log says more.").response()


def _body(request: Request) -> list[str]:
    """The fields that the route of ``request`` takes."""
    body = request.scope["route"].body_field
    return list(body.field_info.annotation.model_fields) if body else []


def _begins_with(fields: Sequence[str], message: str) -> str | None:
    """The field that a sentence of the engine, such as "top_p = 2 must be …", begins with."""
    name = message.partition(" ")[0]
    return name if name in fields else None


def _explain(error: RequestValidationError, known: Sequence[str]) -> ApiError:
    # Of the members of a union, which are tried in turn, the one that fitted furthest says what is wrong.
    found = error.errors()
    alike = (one for one in found if one["loc"][1:2] == found[0]["loc"][1:2])
    first = max(alike, key=lambda one: len(one["loc"]))
    place = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.")
    # Pydantic names the member ("str", "list[int]", a class); a client knows only fields.
    named = [part for part in place if part not in _TYPES and not part[:1].isupper() and "[" not in part]
    if first["type"] == "extra_forbidden":
        # The last one is the client's own name, which may look like a member's.
        field = ".".join([*(part for part in place[:-1] if part in named), place[-1]])
        # Closer than elsewhere: a real field of OpenAI's that is not supported here is no typing error.
        near = difflib.get_close_matches(field[:100], known, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}?" if near else "leave it out."
        return ApiError(400, f"The field {field} is not supported; {hint}", param=field, code="unknown_field")
    if not place:
        return ApiError(400, "The body must be a JSON object, sent with Content-Type: application/json.")
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{'.'.join(named)}: {message}.", param=place[0])
