"""The one place where the server touches the engine's interface.

A setting that :class:`~weft.engine.SamplingParams` does not have is reported as missing by
:func:`supported`, and the routes answer requests for it with 400.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import weakref
from dataclasses import replace
from typing import Any

from weft.core.errors import WeftError
from weft.engine import LLM, SamplingParams
from weft.engine.params import Grammar
from weft.engine.sequence import Sequence, TokenLogprobs
from weft.engine.weights import described
from weft.server.loop import vector
from weft.server.wire import Logprob, Message

_log = logging.getLogger("weft.engine")


def supported() -> list[str]:
    """Names of the settings a request may carry."""
    return sorted({*(field.name for field in dataclasses.fields(SamplingParams)), "owner", "adapter"})


def weights(llm: LLM) -> dict[str, Any]:
    """The number formats of the weights, and how they were chosen."""
    return described(llm.runner.model)


def sampling(fields: dict[str, Any]) -> SamplingParams:
    """The engine's settings from plain JSON; ``sample`` numbers the samples of one request, each with its
    own seed. UsageError for values that make no sense."""
    given = dict(fields)
    index = given.pop("sample", 0)
    for name in ("stop", "stop_token_ids"):
        if name in given:
            given[name] = tuple(given[name])
    if "logit_bias" in given:  # the keys of JSON objects are text
        given["logit_bias"] = {int(token): value for token, value in given["logit_bias"].items()}
    if "grammar" in given:
        given["grammar"] = Grammar(**given["grammar"])
    return SamplingParams(**given).sample(index)


def step_twice(llm: LLM) -> list[Sequence]:
    """One step; one that fails, for want of memory say, is tried once more from an empty cache.

    Nobody's request need end for what is over in a moment. Raises what the second one raises.
    """
    try:
        return llm.step()
    except Exception as error:
        _log.warning("A step failed; it is tried once more", exc_info=error)
    # Only here is what the first one had in hand let go.
    return llm.step()


_WARM = SamplingParams(max_tokens=2, seed=0, cache_salt="warm")


class LlmWorker:
    """An :class:`weft.engine.LLM` as a :class:`weft.server.loop.Worker`; its requests are sequences."""

    def __init__(self, llm: LLM):
        self._llm = llm
        self._told: weakref.WeakKeyDictionary[Sequence, int] = weakref.WeakKeyDictionary()

    def warm(self) -> None:
        """Go through what few requests use, so that its code and tables are in memory before any comes.

        The first grammar alone brings 4.6 MB of its library and 2 MB of tables of the vocabulary; touched
        late, they look like a leak.
        """
        settings = [
            _WARM,
            replace(_WARM, temperature=0.0, logprobs=1, prompt_logprobs=1, min_tokens=1, logit_bias={0: 0.5}),
            replace(_WARM, repetition_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1),
            replace(_WARM, grammar=Grammar("json_object")),
        ]
        # What does not work here is said to the request that asks for it.
        with contextlib.suppress(WeftError):
            self._llm.generate([[0, 0]] * len(settings), settings)
        with contextlib.suppress(WeftError):
            self._llm.add([0, 0], replace(_WARM, grammar=Grammar("regex", "(")))
        with contextlib.suppress(WeftError):
            self._llm.embed([[0, 0]])

    def add(self, message: Message) -> Sequence:
        """Queue a request, or a text to be read, for the key ``owner``."""
        if message["op"] == "embed":
            return self._llm.add_text(message["tokens"], owner=message["owner"])
        params = sampling(message["params"])
        owner, adapter = message["owner"], message.get("adapter")
        return self._llm.add(message["tokens"], params, owner=owner, adapter=adapter)

    def abort(self, request: Sequence) -> None:
        """End it now."""
        self._llm.abort(request)

    def step(self) -> list[Sequence]:
        """One step of the model."""
        return step_twice(self._llm)

    def news(self, request: Sequence) -> Message:
        """Its new text, and the log probabilities of its new tokens; of its prompt the first time.

        Raises what it failed for.
        """
        if request.failure is not None:
            raise request.failure
        first = request not in self._told
        start, self._told[request] = self._told.get(request, 0), request.generated_length
        item: Message = {"text": request.take(), "tokens": request.generated_length}
        if first and request.params.prompt_logprobs is not None and request.prompt_scored:
            entries = request.prompt_logprobs[1:]
            item["prompt_logprobs"] = [[request.tokens[0], None, []], *map(_plain, filter(None, entries))]
        if (found := logprobs(request, start)) is not None:
            item["logprobs"] = found
        if request.finish_reason is not None:
            item["finish"] = request.finish_reason
            if request.pooled is not None and request.finish_reason != "abort":
                item["vector"] = vector(request.pooled.vector())
        return item

    def position(self, request: Sequence) -> int:
        """Tokens that are there, and that are computed."""
        return len(request.tokens) + request.cached

    def stats(self) -> dict[str, int]:
        """Running and waiting requests, free and all blocks, and what has been done."""
        return dict(dataclasses.asdict(self._llm.stats()))

    def change_adapter(self, name: str, folder: str | None) -> None:
        """Load an adapter, or unload it where ``folder`` is None. WeftError when that cannot be done."""
        if folder is None:
            self._llm.unload_adapter(name)
        else:
            self._llm.adapters.load(name, folder)


def logprobs(sequence: Sequence, start: int) -> list[Logprob] | None:
    """Of the new tokens from the ``start``-th on; None when the request did not ask for them."""
    if sequence.params.logprobs is None:
        return None
    return [_plain(entry) for entry in sequence.logprobs[start:]]


def _plain(entry: TokenLogprobs) -> Logprob:
    return [entry.token, entry.logprob, [[token, value] for token, value in entry.top]]
