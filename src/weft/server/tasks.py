"""Encoders and encoder-decoders as a worker of the engine process: tasks in, records out.

A request is one text. They are answered in the order in which they came, keys in turn, and those that wait
for the same task with the same settings are answered together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from weft.api import ReadingModel, WritingModel
from weft.api.able import CALLS
from weft.api.ask import Record, ask
from weft.core.errors import CheckpointError, DataError, UsageError
from weft.data.forms.offsets import start_ids
from weft.server.wire import Message

SOURCE_TOKENS = 1024
"""Tokens of the longest text that an encoder-decoder is asked about: it would take more, but not for all."""

WINDOWS = 64
"""Contexts of questions and texts to summarize are cut into windows; one that needs more is too long."""


def facts(model: ReadingModel | WritingModel) -> Message:
    """What the server learns of a loaded model. ``context``: tokens of a text; ``start``: those before it."""
    reads = isinstance(model, ReadingModel)
    windows = isinstance(model, ReadingModel) and {"answer", "summarize"} & set(model.tasks)
    return {
        "architecture": model.architecture,
        "kind": "encoder" if reads else "encoder-decoder",
        "tasks": list(model.tasks),
        "context": model.reader.most if isinstance(model, ReadingModel) else SOURCE_TOKENS,
        "windows": WINDOWS if windows else 1,
        "start": start_ids(model.tokenizer) if reads else [],
        "vocabulary": model.model.config.vocab_size,
        "hidden": model.model.config.hidden_size,
        "supported": [],
    }


@dataclass(eq=False)
class Asked:
    """A text that waits for its record; ``error`` is what went wrong with it alone."""

    task: str
    item: Record
    settings: dict[str, Any]
    owner: str
    record: Record | None = None
    tokens: int = 0
    error: Exception | None = None
    aborted: bool = False

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind can be answered together."""
        return (self.task, self.settings)


class TaskWorker:
    """A :class:`weft.server.loop.Worker`; at most ``most`` texts are worked on at once."""

    def __init__(self, model: ReadingModel | WritingModel, most: int):
        self._model, self._most = model, most
        self._waiting: list[Asked] = []
        self._turns: dict[str, int] = {}
        self._steps = 0

    def add(self, message: Message) -> Asked:
        """Queue a text. UsageError for what this model cannot do."""
        if message["op"] != "task":
            able = ", ".join(self._model.tasks)
            raise UsageError(f"This {self._model.architecture} continues no text; its tasks are {able}.")
        if message["task"] not in self._model.tasks:
            self._model.refuse(CALLS[message["task"]])
        request = Asked(message["task"], message["item"], message["settings"], message["owner"])
        self._waiting.append(request)
        return request

    def abort(self, request: Asked) -> None:
        """Take it out of the queue."""
        if request in self._waiting:
            self._waiting.remove(request)
        request.aborted = True

    def step(self) -> Iterable[Asked]:
        """Answer the next text, and others that wait for the same."""
        self._steps += 1
        # Of keys that wait, the one that was served longest ago.
        first = min(self._waiting, key=lambda one: self._turns.get(one.owner, 0))
        alike = [one for one in self._waiting if one is not first and one.kind == first.kind]
        batch = [first, *alike[: self._most - 1]]
        self._turns |= {one.owner: self._steps for one in batch}
        self._waiting = [one for one in self._waiting if one not in batch]
        self._answer(batch)
        return batch

    def news(self, request: Asked) -> Message:
        """Its record, once there is one. Raises what went wrong with it."""
        if request.error is not None:
            raise request.error
        if request.aborted:
            return {"text": "", "tokens": 0, "finish": "abort"}
        return {"text": "", "tokens": request.tokens, "record": request.record, "finish": "stop"}

    def position(self, request: Asked) -> int:
        """Nothing, until all of it is done."""
        return 0

    def stats(self) -> dict[str, int]:
        """Texts that wait, and batches answered."""
        return {"running": 0, "waiting": len(self._waiting), "steps": self._steps}

    def embed(self, tokens: list[int]) -> bytes:
        """The vector of a text, as :meth:`weft.api.ReadingModel.embed` gives it."""
        if not isinstance(self._model, ReadingModel):
            self._model.refuse("embed")
        vector: bytes = self._model.vectors([tokens])[0].astype("<f4").tobytes()
        return vector

    def change_adapter(self, name: str, folder: str | None) -> None:
        """Not here."""
        raise UsageError(f"Adapters are for decoders, not for this {self._model.architecture}.")

    def _answer(self, batch: list[Asked]) -> None:
        first = batch[0]
        try:
            records = ask(self._model, first.task, [one.item for one in batch], first.settings)
            for one, record in zip(batch, records, strict=True):
                one.record, one.tokens = _finite(record), self._written(record)
        except Exception as error:
            if len(batch) == 1:
                # Whatever a text holds is the client's to mend.
                first.error = UsageError(str(error)) if isinstance(error, DataError) else error
                return
            # One of them is wrong, or together they are too much: each by itself.
            for one in batch:
                self._answer([one])

    def _written(self, record: Record) -> int:
        """Tokens of what the model wrote, where it writes."""
        if isinstance(self._model, ReadingModel):
            return 0
        texts = [record["text"], *(one["text"] for one in record.get("alternatives", ()))]
        return sum(map(len, self._model.tokenizer.encode_batch(texts)))


def _finite(record: Record) -> Record:
    if not all(map(math.isfinite, [record.get("score", 0.0), *record.get("embedding", ())])):
        raise CheckpointError("The model gives NaN or infinite scores: its weights are damaged or overflow.")
    return record
