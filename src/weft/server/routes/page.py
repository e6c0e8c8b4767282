"""The page: files of this package and nothing else."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = Path(__file__).parent.parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class SafeHeaders:
    """ASGI middleware: the page may load only what this server sends, and nobody may frame it."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the headers to every answer."""

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, add_headers if scope["type"] == "http" else send)


def add(app: FastAPI) -> None:
    """/ and /page/FILE for each file that is there now; no path of a request reaches the disk."""

    def serve(path: str, file: Path) -> None:
        async def page() -> Response:
            return FileResponse(file, media_type=_TYPES[file.suffix], headers={"cache-control": "no-cache"})

        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)

    serve("/", PAGE / "index.html")
    for file in sorted(PAGE.iterdir()):
        serve(f"/page/{file.name}", file)
