"""What every route works with: the models, and what counts, bounds and remembers requests."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.requests import Request

from weft.server.admission import Admission
from weft.server.answer import Answer
from weft.server.keys import Key
from weft.server.ledger import Ledger, Use
from weft.server.limits import Limits
from weft.server.metrics import Metrics
from weft.server.models import Models, Served


@dataclass(frozen=True)
class Front:
    """The parts of a server that routes share; ``ledger`` is None where nothing is written down."""

    models: Models
    limits: Limits
    admission: Admission
    metrics: Metrics
    ledger: Ledger | None

    def record(
        self,
        request: Request,
        served: Served,
        status: int,
        prompt_tokens: int,
        answers: list[Answer],
        user: str | None,
    ) -> None:
        """Write down a request that is over."""
        key, route = key_of(request), request.url.path
        self.metrics.request(route, served.name, status, prompt_tokens, answers)
        if self.ledger is None:
            return
        firsts = [answer.first - answer.submitted for answer in answers if answer.first is not None]
        began = min((answer.submitted for answer in answers), default=time.monotonic())
        self.ledger.use(
            Use(
                time.time(),
                key.id if key else "",
                user,
                route,
                served.name,
                status,
                prompt_tokens,
                sum(answer.tokens for answer in answers),
                min(firsts, default=None),
                time.monotonic() - began,
            )
        )


def key_of(request: Request) -> Key | None:
    """The key that the request came with; None where the server has no keys."""
    found: Key | None = request.scope["state"]["key"]
    return found


def owner_of(request: Request) -> str:
    """Whose turn is counted in the engine, and who shares cached prefixes."""
    key = key_of(request)
    return key.id if key else ""
