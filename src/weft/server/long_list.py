"""Answers with a long list, written beside the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response


async def written(head: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any]]) -> Response:
    """The JSON of ``head`` and, under ``name``, of ``items``.

    They are made and written in a thread, one by one: one call for all of them, with millions of numbers,
    would hold up everybody for seconds, in a thread too.
    """
    body = await asyncio.to_thread(_written, head, name, items)
    return Response(body, media_type="application/json")


def _written(head: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any]]) -> bytes:
    texts = ",".join(map(_json, items))
    return f"{_json(head)[:-1]},{_json(name)}:[{texts}]}}".encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
