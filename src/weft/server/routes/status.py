"""GET /v1/models, /health, /metrics, and what an operator may do under /admin."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response

from weft.core.errors import ResourceError
from weft.server.errors import ApiError
from weft.server.front import Front, owner_of
from weft.server.inputs import LoadAdapter, UnloadAdapter
from weft.server.served import Served


def add(app: FastAPI, front: Front) -> None:
    """All of them."""
    _add_models(app, front)
    _add_health(app, front)
    _add_admin(app, front)


def _add_models(app: FastAPI, front: Front) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        found = front.models.all()
        records = [_record(served) for served in found]
        records += [_record(served, adapter) for served in found for adapter in served.adapters]
        return {"object": "list", "data": records}

    @app.get("/v1/models/{model_id:path}")
    async def one_model(model_id: str) -> dict[str, Any]:
        return _record(front.models.find(model_id), front.models.adapter(model_id))


def _add_health(app: FastAPI, front: Front) -> None:
    @app.get("/health")
    async def health() -> Response:
        """503 when an engine that should work does not: it is down, or its tokens have stopped moving."""
        sick = []
        for served in front.models.all():
            engine = served.engine
            if served.lost or (served.loaded and not engine.up):
                sick.append(f"the engine of {served.name} is not there")
            elif engine.stalled_seconds > engine.patience.stall / 2:
                sick.append(f"the tokens of {served.name} have stopped moving")
        return JSONResponse({"status": "; ".join(sick) or "ok"}, 503 if sick else 200)

    # Some load balancers ask so; two methods of one route would have one name twice in the schema.
    app.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)

    @app.get("/status")
    async def status() -> dict[str, Any]:
        """What the page shows: the queue and the speed of every model."""
        return {"models": {served.name: _state(served) for served in front.models.all()}}


def _add_admin(app: FastAPI, front: Front) -> None:
    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(front.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/admin/usage")
    async def usage(days: int = 30) -> dict[str, Any]:
        if front.ledger is None:
            raise ApiError(404, "This server keeps no records; start it with --store.")
        if not 1 <= days <= 3650:
            raise ApiError(400, f"days = {days} must be a number from 1 to 3650.", param="days")
        try:
            found = await front.ledger.asked(days)
        except (ResourceError, TimeoutError) as error:
            message = str(error) or "The database does not answer; try again later."
            raise ApiError(503, message, headers={"Retry-After": "5"}) from None
        return {"usage": found, "lost": front.ledger.lost}

    @app.post("/admin/models/{name:path}/load")
    async def load(request: Request, name: str) -> dict[str, Any]:
        served = await front.models.get(name)
        _log(request, front, "load", name)
        return _record(served)

    @app.post("/admin/models/{name:path}/unload")
    async def unload(request: Request, name: str) -> dict[str, Any]:
        served = front.models.find(name)
        if served.name != name:
            raise ApiError(
                400, f"{name!r} is an adapter; POST /v1/unload_lora_adapter unloads it.", param="name"
            )
        async with served.lock:
            await served.unload()
        _log(request, front, "unload", name)
        return _record(served)

    @app.post("/v1/load_lora_adapter")
    async def load_adapter(request: Request, body: LoadAdapter) -> dict[str, Any]:
        served = await front.models.load_adapter(body.lora_name, body.lora_path, body.model)
        _log(request, front, "load adapter", body.lora_name)
        return _record(served, body.lora_name)

    @app.post("/v1/unload_lora_adapter")
    async def unload_adapter(request: Request, body: UnloadAdapter) -> dict[str, Any]:
        served = await front.models.unload_adapter(body.lora_name)
        _log(request, front, "unload adapter", body.lora_name)
        return _record(served)


def _record(served: Served, adapter: str | None = None) -> dict[str, Any]:
    return {
        "id": adapter or served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "weft",
        "parent": served.name if adapter else None,
        "max_model_len": served.engine.facts.get("context"),
        "loaded": served.engine.up,
        "supported": served.engine.facts.get("supported", []),
        "weights": served.engine.facts.get("weights"),
        "kind": served.abilities.kind or None,
        "tasks": served.tasks,
        "languages": list(served.abilities.languages),
    }


def _state(served: Served) -> dict[str, Any]:
    engine = served.engine
    return {"loaded": engine.up, "open": engine.active, "restarts": engine.restarts, **engine.stats}


def _log(request: Request, front: Front, event: str, detail: str) -> None:
    if front.ledger is not None:
        front.ledger.event(owner_of(request), event, detail)
