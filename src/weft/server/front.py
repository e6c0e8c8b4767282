"""What every route works with: the models, and what counts and bounds requests."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from weft.server.account import Work
from weft.server.admission import Admission
from weft.server.keys import Key
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.metrics import Metrics
from weft.server.models import Models


@dataclass(frozen=True)
class Front:
    """The parts of a server that routes share; ``ledger`` is None where nothing is written down."""

    models: Models
    limits: Limits
    admission: Admission
    metrics: Metrics
    ledger: Ledger | None

    def begin(self, request: Request, model: str | None, user: str | None = None) -> Work:
        """Say which model a request is for; it is counted for it however it ends. Raises ApiError 404."""
        work = Work(self.models.find(model).name, user)
        request.scope["state"]["work"] = work
        return work


def key_of(request: Request) -> Key | None:
    """The key that the request came with; None where the server has no keys."""
    found: Key | None = request.scope["state"]["key"]
    return found


def owner_of(request: Request) -> str:
    """Whose turn is counted in the engine, and who shares cached prefixes."""
    key = key_of(request)
    return key.id if key else ""
