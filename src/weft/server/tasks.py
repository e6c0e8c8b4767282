"""Encoders as a worker of the engine process: tasks in, records out.

A request is one text, which the engine's scheduler sees as a sequence that ends when it is read: keys take
turns, and a step reads as many as its budget of tokens holds, those of the same task and settings together.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from weft.api import ReadingModel, WritingModel
from weft.api.able import CALLS
from weft.api.ask import Record, ask
from weft.core.errors import CheckpointError, DataError, UsageError
from weft.data.forms.offsets import start_ids
from weft.engine.blocks import BlockPool
from weft.engine.params import SamplingParams
from weft.engine.scheduler import Scheduler
from weft.engine.sequence import Sequence
from weft.engine.text import text_stream
from weft.server.loop import vector
from weft.server.wire import Message

SOURCE_TOKENS = 1024
"""Tokens of the longest text that an encoder-decoder is asked about: it would take more, but not for all."""

READ_TOKENS = 4096
"""Tokens of texts that are read in one step: as many rows as a reader packs at once."""

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
    """A text that waits for its record, or, as ``tokens``, for its ``vector``; ``error`` is what went wrong
    with it alone."""

    task: str
    item: Record
    settings: dict[str, Any]
    owner: str
    record: Record | None = None
    error: Exception | None = None
    aborted: bool = False
    sequence: Sequence | None = None
    tokens: list[int] | None = None
    vector: str | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind can be answered together."""
        return (self.task, self.settings, self.tokens is None)


def check(model: ReadingModel | WritingModel, message: Message) -> None:
    """UsageError for a request that is no task, or none that this model can do; a vector is one as well."""
    if message["op"] == "embed":
        if "embed" not in model.tasks:
            model.refuse("embed")
        return
    if message["op"] != "task":
        able = ", ".join(model.tasks)
        raise UsageError(f"This {model.architecture} continues no text; its tasks are {able}.")
    if message["task"] not in model.tasks:
        model.refuse(CALLS[message["task"]])


class TaskWorker:
    """A :class:`weft.server.loop.Worker`; at most ``most`` texts are worked on at once."""

    def __init__(self, model: ReadingModel, most: int):
        self._model = model
        self._scheduler = Scheduler(most, READ_TOKENS + most, BlockPool(0))
        self._asked: dict[Sequence, Asked] = {}
        self._steps = 0

    def add(self, message: Message) -> Asked:
        """Queue a text. UsageError for what this model cannot do."""
        check(self._model, message)
        if message["op"] == "embed":
            request = Asked("embed", {}, {}, message["owner"], tokens=message["tokens"])
        else:
            request = Asked(message["task"], message["item"], message["settings"], message["owner"])
        request.sequence = self._sequence(request)
        self._asked[request.sequence] = request
        self._scheduler.add(request.sequence)
        return request

    def abort(self, request: Asked) -> None:
        """Take it out of the queue."""
        self._forget(request)
        request.aborted = True

    def step(self) -> Iterable[Asked]:
        """Read the next texts, as many as the budget holds, those that are asked the same together."""
        self._steps += 1
        work = self._scheduler.schedule()
        batch = [self._asked[item.sequence] for item in work]
        left = batch
        while left:
            self._answer([one for one in left if one.kind == left[0].kind])
            left = [one for one in left if one.kind != left[0].kind]
        for item in work:
            self._scheduler.advance(item)
            self._forget(self._asked[item.sequence])
        return batch

    def news(self, request: Asked) -> Message:
        """Its record, once there is one. Raises what went wrong with it."""
        if request.error is not None:
            raise request.error
        if request.aborted:
            return {"text": "", "tokens": 0, "finish": "abort"}
        made = {"record": request.record} if request.vector is None else {"vector": request.vector}
        return {"text": "", "tokens": 0, **made, "finish": "stop"}

    def position(self, request: Asked) -> int:
        """Nothing, until all of it is done."""
        return 0

    def stats(self) -> dict[str, int]:
        """Texts that wait, and batches answered."""
        return {"running": 0, "waiting": self._scheduler.waiting, "steps": self._steps}

    def change_adapter(self, name: str, folder: str | None) -> None:
        """Not here."""
        raise UsageError(f"Adapters are for decoders, not for this {self._model.architecture}.")

    def _sequence(self, request: Asked) -> Sequence:
        """What the scheduler sees of a text: something to read, and nothing to write."""
        texts = [request.item[name] for name in ("text", "question", "context") if name in request.item]
        tokenizer, length = self._model.tokenizer, len(request.tokens or (0,))
        # What is wrong with a text is told when it is read.
        with contextlib.suppress(DataError):
            length = sum(map(len, tokenizer.encode_batch(texts))) or length
        # One that is longer than the budget, in windows, has a step to itself.
        source = range(max(1, min(length, self._scheduler.longest_source)))
        params, text = SamplingParams(), text_stream(tokenizer, ())
        return Sequence((), params, seed=0, limit=0, text=text, owner=request.owner, source=source)

    def _forget(self, request: Asked) -> None:
        """It is read, or nobody wants it."""
        if request.sequence is not None and self._asked.pop(request.sequence, None) is not None:
            self._scheduler.remove(request.sequence)

    def _answer(self, batch: list[Asked]) -> None:
        first = batch[0]
        try:
            if first.tokens is not None:
                found = self._model.vectors([one.tokens or [] for one in batch])
                for one, values in zip(batch, found, strict=True):
                    one.vector = vector(values)
                return
            records = ask(self._model, first.task, [one.item for one in batch], first.settings)
            for one, record in zip(batch, records, strict=True):
                one.record = _finite(record)
        except Exception as error:
            if len(batch) == 1:
                # Whatever a text holds is the client's to mend.
                first.error = UsageError(str(error)) if isinstance(error, DataError) else error
                return
            # One of them is wrong, or together they are too much: each by itself.
            for one in batch:
                self._answer([one])


def _finite(record: Record) -> Record:
    if not all(map(math.isfinite, [record.get("score", 0.0), *record.get("embedding", ())])):
        raise CheckpointError("The model gives NaN or infinite scores: its weights are damaged or overflow.")
    return record
