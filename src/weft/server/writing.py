"""Encoder-decoders as a worker of the engine process: texts in, records of what was written out.

Everything goes through the engine (:class:`weft.engine.LLM`), where each answer, greedy or searched by beams,
begins and ends when it can.
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
from weft.engine.runner import prepare
from weft.engine.search import Written
from weft.engine.sequence import Sequence
from weft.server.seam import step_twice
from weft.server.tasks import SOURCE_TOKENS, check
from weft.server.wire import Message

_MARKS = 64
"""Tokens that stand around a text in its source, at most."""


@dataclass(eq=False)
class Asked:
    """A text that ``sequence`` writes for."""

    order: Order
    sequence: Sequence
    aborted: bool = False

    @property
    def answers(self) -> list[Written] | None:
        """The answers, best first, once they are there."""
        if not self.sequence.finished:
            return None
        return [_answer(self.sequence)] if self.sequence.search is None else self.sequence.search.answers


class WritingWorker:
    """A :class:`weft.server.loop.Worker`; at most ``most`` texts are worked on at once.

    With ``speculation`` what an answer repeats is guessed from it, which changes no token.
    """

    def __init__(self, model: WritingModel, most: int, *, speculation: bool = True):
        self._model = model
        end, weight = model.tokenizer.eos_id, model.model.embedding.weight
        prepare(model.model, weight.device, weight.dtype)
        # The longest source has a step to itself beside what decodes.
        budget = SOURCE_TOKENS + _MARKS + most
        self._llm = LLM(
            model.model,
            model.tokenizer,
            max_sequences=most,
            token_budget=budget,
            speculation=speculation,
        )
        # The engine's native code is compiled and loaded before anybody waits for it.
        self._llm.generate([[end]], SamplingParams(max_tokens=1, seed=0, cache_salt="warm"))
        self._asked: list[Asked] = []

    def add(self, message: Message) -> Asked:
        """Queue a text. UsageError for what this model cannot do, and for texts that it cannot read."""
        check(self._model, message)
        try:
            order = self._model.order(message["task"], message["item"]["text"], message["settings"])
        except DataError as error:
            # Whatever a text holds is the client's to mend.
            raise UsageError(str(error)) from error
        request = Asked(order, self._queued(order, message["owner"]))
        self._asked.append(request)
        return request

    def _queued(self, order: Order, owner: str) -> Sequence:
        if order.how.beams > 1:
            return self._llm.add_search(order.source, order.how, owner=owner)
        params = SamplingParams(temperature=0, max_tokens=order.how.max_tokens, logprobs=0)
        return self._llm.add(order.source, params, owner=owner)

    def abort(self, request: Asked) -> None:
        """End it; what it held is free at once."""
        request.aborted = True
        if request in self._asked:
            self._asked.remove(request)
        self._llm.abort(request.sequence)

    def step(self) -> list[Asked]:
        """A token more of everything under way; those that are written whole."""
        step_twice(self._llm)
        done = [one for one in self._asked if one.sequence.finished]
        self._asked = [one for one in self._asked if not one.sequence.finished]
        return done

    def news(self, request: Asked) -> Message:
        """Its record, once there is one. Raises CheckpointError for scores that are NaN or infinite, and what
        else it failed for."""
        if request.sequence.failure is not None:
            raise request.sequence.failure
        if request.aborted:
            return {"text": "", "tokens": 0, "finish": "abort"}
        answers = request.answers
        if answers is None:
            return {"text": "", "tokens": 0}
        if not all(math.isfinite(one.score) for one in answers):
            raise CheckpointError("The model gives NaN or infinite scores: its weights are damaged.")
        record: Record = record_of(request.order.finished(answers))
        return {"text": "", "tokens": self._length(record), "record": record, "finish": "stop"}

    def position(self, request: Asked) -> int:
        """Tokens that are there and computed."""
        return len(request.sequence.tokens) + request.sequence.cached

    def stats(self) -> dict[str, int]:
        """Texts that are written or wait, free and all blocks, and what has been done."""
        return dataclasses.asdict(self._llm.stats())

    def change_adapter(self, name: str, folder: str | None) -> None:
        """Not here."""
        raise UsageError(f"Adapters are for decoders, not for this {self._model.architecture}.")

    def _length(self, record: Record) -> int:
        """Tokens of what the model wrote."""
        texts = [record["text"], *(one["text"] for one in record.get("alternatives", ()))]
        return sum(map(len, self._model.tokenizer.encode_batch(texts)))


def _answer(sequence: Sequence) -> Written:
    """The answer of a finished sequence, as :func:`weft.engine.encdec.write` gives it."""
    ended = sequence.finish_reason == "stop"
    tokens = sequence.generated[:-1] if ended else sequence.generated
    return Written(tuple(tokens), sequence.mean_logprob, ended)
