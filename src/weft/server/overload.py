"""What comes in while every model's queue is full."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from weft.server.admission import Admission
from weft.server.errors import ApiError
from weft.server.models import Models

_TAKES_PLACES = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/v1/tasks/")


class Overload:
    """ASGI middleware: refuses whatever would take a place in a queue while no model has one.

    To understand such a request takes as long as all the rest of its refusal, and in a flood that time
    is taken from the answers under way.
    """

    def __init__(self, app: ASGIApp, models: Models, admission: Admission):
        self._app, self._models, self._admission = app, models, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """429 while all are full."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(_TAKES_PLACES):
            refusal = self._refusal()
            if refusal is not None:
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self) -> ApiError | None:
        models = self._models.all()
        if not all(one.ready and self._admission.full(one.engine) for one in models):
            return None
        return self._admission.refusal(min((one.engine for one in models), key=lambda engine: engine.active))
