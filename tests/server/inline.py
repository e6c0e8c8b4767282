"""Models of tasks without engine processes: everything of HTTP is real, and the work is done at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import weft
from weft.api import WritingModel
from weft.core.errors import WeftError
from weft.server import tasks
from weft.server.answer import Answer, EngineFault, news
from weft.server.engine import EngineOptions, Patience
from weft.server.writing import WritingWorker


class Inline:
    """A :class:`weft.server.backend.Backend` in this process."""

    failure = None
    active = restarts = 0
    stalled_seconds = 0.0

    def __init__(self, options: EngineOptions, patience: Patience):
        self.options, self.patience = options, patience
        self.facts: dict[str, Any] = {}
        self.stats: dict[str, int] = {}
        self._names = itertools.count(1)

    @property
    def up(self) -> bool:
        return bool(self.facts)

    def held_by(self, owner: str) -> int:
        return 0

    def start(self) -> None:
        if not self.up:
            model = weft.load(self.options.checkpoint, "float32")
            worker: type[Any] = WritingWorker if isinstance(model, WritingModel) else tasks.TaskWorker
            self._worker = worker(model, 1)
            self.facts = {**tasks.facts(model), "sequences": self.options.max_sequences}

    async def ready(self) -> None:
        pass

    async def stop(self) -> None:
        self.facts = {}

    def do(self, task: str, item: dict[str, Any], settings: dict[str, Any], owner: str = "") -> Answer:
        return self._ask({"op": "task", "task": task, "item": item, "settings": settings, "owner": owner})

    def embed(self, tokens: Sequence[int], owner: str = "") -> Answer:
        return self._ask({"op": "embed", "tokens": list(tokens), "owner": owner})

    def _ask(self, message: dict[str, Any]) -> Answer:
        answer = Answer(next(self._names), message["owner"])
        try:
            asked = self._worker.add(message)
            while asked not in self._worker.step():
                pass
            answer.put(news(self._worker.news(asked)))
        except WeftError as error:
            answer.put(EngineFault(str(error), 400))
        return answer

    def submit(self, *arguments: Any, **settings: Any) -> Answer:
        raise NotImplementedError

    async def change_adapter(self, name: str, folder: str | None) -> None:
        raise NotImplementedError

    def abort(self, answer: Answer) -> None:
        pass
