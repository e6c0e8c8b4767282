"""Encoder-decoders as a worker of the engine process: texts in, records of what was written out.

Greedy answers go through the engine (:class:`weft.engine.LLM`), where each begins and ends when it can; those
that are searched by beams are written in batches. Every step takes all of them a token further, so a long
answer holds up no short one.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from weft.api import WritingModel
from weft.api.ask import Record, record_of
from weft.api.writing import Order
from weft.core.errors import CheckpointError, DataError, UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.encdec import BeamBatch, Beams, Written
from weft.engine.runner import prepare
from weft.engine.sequence import Sequence
from weft.server.line import Line
from weft.server.tasks import SOURCE_TOKENS, check
from weft.server.wire import Message

_MARKS = 64
"""Tokens that stand around a text in its source, at most."""


@dataclass(eq=False)
class Asked:
    """A text to be written for: by ``sequence``, or as number ``place`` of ``batch``; ``error`` ended it."""

    order: Order
    owner: str
    sequence: Sequence | None = None
    batch: BeamBatch | None = None
    place: int = 0
    aborted: bool = False
    error: Exception | None = None

    @property
    def kind(self) -> Beams:
        """Searches of one kind go together."""
        return self.order.how

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.error is not None or self.answers is not None

    @property
    def answers(self) -> list[Written] | None:
        """The answers, best first, once they are there."""
        if self.sequence is not None:
            return [_answer(self.sequence)] if self.sequence.finished else None
        if self.batch is None or not self.batch.finished(self.place):
            return None
        return self.batch.answers(self.place)


class WritingWorker:
    """A :class:`weft.server.loop.Worker`; at most ``most`` texts of either kind are worked on at once."""

    def __init__(self, model: WritingModel, most: int):
        self._model, self._most = model, most
        end, weight = model.tokenizer.eos_id, model.model.embedding.weight
        prepare(model.model, weight.device, weight.dtype)
        # The longest source has a step to itself beside what decodes.
        budget = SOURCE_TOKENS + _MARKS + most
        self._llm = LLM(model.model, model.tokenizer, max_sequences=most, token_budget=budget)
        # The engine's native code is compiled and loaded before anybody waits for it.
        self._llm.generate([[end]], SamplingParams(max_tokens=1, seed=0, cache_salt="warm"))
        self._line = Line[Asked]()
        self._decoded: list[Asked] = []
        self._searched: list[Asked] = []
        self._steps = 0

    def add(self, message: Message) -> Asked:
        """Queue a text. UsageError for what this model cannot do, and for texts that it cannot read."""
        check(self._model, message)
        try:
            order = self._model.order(message["task"], message["item"]["text"], message["settings"])
        except DataError as error:
            # Whatever a text holds is the client's to mend.
            raise UsageError(str(error)) from error
        request = Asked(order, message["owner"])
        if order.how.beams == 1:
            params = SamplingParams(temperature=0, max_tokens=order.how.max_tokens, logprobs=0)
            request.sequence = self._llm.add(order.source, params, owner=request.owner)
            self._decoded.append(request)
        else:
            self._line.add(request)
        return request

    def abort(self, request: Asked) -> None:
        """End it; what it held is free after the next step."""
        request.aborted = True
        self._line.leave(request)
        for place in (self._decoded, self._searched):
            if request in place:
                place.remove(request)
        if request.sequence is not None:
            self._llm.abort(request.sequence)
        if request.batch is not None:
            request.batch.drop(request.place)

    def step(self) -> list[Asked]:
        """A token more of everything under way; those that are written whole."""
        self._steps += 1
        self._begin()
        for batch in {id(one.batch): one.batch for one in self._searched if one.batch}.values():
            try:
                batch.step()
            except Exception as error:
                # What is wrong with a search, its memory say, is not the others' affair.
                for one in self._searched:
                    one.error = error if one.batch is batch else one.error
        self._llm.step()
        done = [one for one in (*self._decoded, *self._searched) if one.ended]
        self._decoded = [one for one in self._decoded if not one.ended]
        self._searched = [one for one in self._searched if not one.ended]
        return done

    def news(self, request: Asked) -> Message:
        """Its record, once there is one. Raises what ended it; CheckpointError for scores that are NaN."""
        if request.aborted:
            return {"text": "", "tokens": 0, "finish": "abort"}
        if request.error is not None:
            raise request.error
        answers = request.answers
        if answers is None:
            return {"text": "", "tokens": 0}
        if not all(math.isfinite(one.score) for one in answers):
            raise CheckpointError("The model gives NaN or infinite scores: its weights are damaged.")
        record: Record = record_of(request.order.finished(answers))
        return {"text": "", "tokens": self._length(record), "record": record, "finish": "stop"}

    def position(self, request: Asked) -> int:
        """Tokens that are there and computed, or steps of its search."""
        if request.sequence is not None:
            return len(request.sequence.tokens) + request.sequence.cached
        return 0 if request.batch is None else request.batch.length

    def stats(self) -> dict[str, int]:
        """Texts that are written or wait, free and all blocks, and what has been done."""
        found: dict[str, int] = dataclasses.asdict(self._llm.stats())
        more = {"running": len(self._searched), "waiting": len(self._line)}
        return {**found, **{name: found[name] + count for name, count in more.items()}, "steps": self._steps}

    def change_adapter(self, name: str, folder: str | None) -> None:
        """Not here."""
        raise UsageError(f"Adapters are for decoders, not for this {self._model.architecture}.")

    def _begin(self) -> None:
        """Begin a batch of those that wait for a search, as many as there is room for."""
        chosen = self._line.take(self._most - len(self._searched))
        if not chosen:
            return
        end, sources = self._model.tokenizer.eos_id, [one.order.source for one in chosen]
        batch = BeamBatch(self._model.model, sources, end, end, chosen[0].order.how)
        for place, one in enumerate(chosen):
            one.batch, one.place = batch, place
        self._searched += chosen

    def _length(self, record: Record) -> int:
        """Tokens of what the model wrote."""
        texts = [record["text"], *(one["text"] for one in record.get("alternatives", ()))]
        return sum(map(len, self._model.tokenizer.encode_batch(texts)))


def _answer(sequence: Sequence) -> Written:
    """The answer of a finished sequence, as :func:`weft.engine.encdec.write` gives it."""
    ended = sequence.finish_reason == "stop"
    tokens = sequence.generated[:-1] if ended else sequence.generated
    return Written(tuple(tokens), sequence.mean_logprob, ended)
