"""What the front asks of whatever computes: one engine process, or replicas of it on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from weft.core.errors import WeftError
from weft.server.answer import Answer
from weft.server.engine import EngineOptions, Patience
from weft.server.wire import Message


class Backend(Protocol):
    """A model that is started, watched and asked; see :class:`weft.server.engine.Engine`."""

    options: EngineOptions
    patience: Patience
    facts: Message
    failure: WeftError | None

    @property
    def up(self) -> bool:
        """Whether it can be asked now."""
        ...

    @property
    def active(self) -> int:
        """Answers that are not finished."""
        ...

    @property
    def stats(self) -> dict[str, int]:
        """Counts of the moment."""
        ...

    @property
    def restarts(self) -> int:
        """Processes that were replaced."""
        ...

    @property
    def stalled_seconds(self) -> float:
        """How long nothing has moved though there is work."""
        ...

    def held_by(self, owner: str) -> int:
        """Answers that are not finished, of one owner."""
        ...

    def start(self) -> None:
        """Begin to load."""
        ...

    async def ready(self) -> None:
        """Wait until it can be asked. Raises WeftError or EngineFault."""
        ...

    async def stop(self) -> None:
        """Free everything."""
        ...

    def submit(
        self, tokens: Sequence[int], params: dict[str, Any], owner: str = "", adapter: str | None = None
    ) -> Answer:
        """Queue checked token ids."""
        ...

    def embed(self, tokens: Sequence[int], owner: str = "") -> Answer:
        """Ask for a vector."""
        ...

    def do(self, task: str, item: dict[str, Any], settings: dict[str, Any], owner: str = "") -> Answer:
        """Ask for a task on one item."""
        ...

    def abort(self, answer: Answer) -> None:
        """End an answer."""
        ...

    async def change_adapter(self, name: str, folder: str | None) -> None:
        """Load or unload an adapter. Raises EngineFault."""
        ...


MakeBackend = Callable[[EngineOptions, Patience], Backend]
