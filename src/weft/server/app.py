"""The application: its routes, and what stands in front of them.

It fetches no URL and loads no code. FastAPI's own documentation pages are off because they would load
scripts from elsewhere; /openapi.json is there.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Route

from weft.server import errors
from weft.server.account import Account
from weft.server.admission import Admission
from weft.server.auth import Gate
from weft.server.drain import Drain
from weft.server.front import Front
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import BodyLimit, Limits
from weft.server.metrics import Metrics
from weft.server.models import Models
from weft.server.overload import Overload
from weft.server.routes import generation, page, status, tasks, text, vectors


def create_app(
    models: Models, limits: Limits | None = None, keys: Keys | None = None, ledger: Ledger | None = None
) -> FastAPI:
    """The application that serves ``models``; they are started before and stopped with it.

    With ``keys`` every route but the page's files and /health needs one, as soon as there are any.
    """
    limits = limits or Limits()
    front = Front(models, limits, Admission(limits, ledger), Metrics(models), ledger)

    app = FastAPI(title="Weft", docs_url=None, redoc_url=None, responses=errors.DOCUMENTED)
    errors.install(app)
    page.add(app)
    for routes in (status, generation, tasks, vectors, text):
        routes.add(app, front)
    # The last one added is the first that sees a request: no byte of a body is read before the key is known.
    app.add_middleware(Overload, models=models, admission=front.admission)
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(Gate, keys=keys, ledger=ledger)
    app.add_middleware(Account, metrics=front.metrics, ledger=ledger, paths=_paths(app))
    app.add_middleware(Drain)
    app.add_middleware(page.SafeHeaders)
    return app


def _paths(app: FastAPI) -> frozenset[str]:
    return frozenset(route.path for route in app.routes if isinstance(route, Route))
