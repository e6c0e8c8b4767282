"""An engine process around vLLM: ``python -m weft.server.host_vllm FD``, run by an interpreter that has it.

The messages are those of Weft's own engine, so front, keys and page are the same. Of Weft only what needs no
torch is imported: the environment is vLLM's own.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from weft.core.errors import ResourceError, UsageError
from weft.server.loop import work
from weft.server.wire import Message

SUPPORTED = (
    *("max_tokens", "min_tokens", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("logit_bias", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "stop_token_ids"),
    *("ignore_eos", "logprobs", "owner"),
)
"""Settings that a request may carry; a request for others is a 400."""


@dataclass(eq=False)
class Asked:
    """A request under way, and what has come of it since it was last told."""

    name: str
    likeliest: int = 0
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    logprobs: list[list[Any]] | None = None


@dataclass
class VllmWorker:
    """vLLM's engine, stepped in this process, as a :class:`weft.server.loop.Worker`."""

    vllm: Any
    engine: Any
    context: int
    open: dict[str, Asked] = field(default_factory=dict)
    count: int = 0

    def add(self, message: Message) -> Asked:
        """Queue a request. UsageError for settings that vLLM refuses, and for embeddings."""
        if message["op"] == "embed":
            raise UsageError("vLLM serves this model for text; embeddings come from Weft's own engine.")
        self.count += 1
        given = dict(message["params"])
        index = given.pop("sample", 0)
        if given.get("seed") is not None:
            given["seed"] += index
        if "logit_bias" in given:
            given["logit_bias"] = {int(token): value for token, value in given["logit_bias"].items()}
        room = self.context - len(message["tokens"])
        given["max_tokens"] = min(room, given.get("max_tokens") or room)
        kind = importlib.import_module("vllm.sampling_params").RequestOutputKind.DELTA
        try:
            params = self.vllm.SamplingParams(**given, output_kind=kind)
            request = Asked(str(self.count), given.get("logprobs") or 0)
            if given.get("logprobs") is not None:
                request.logprobs = []
            self.engine.add_request(request.name, {"prompt_token_ids": message["tokens"]}, params)
        except (ValueError, TypeError) as error:
            raise UsageError(f"vLLM refuses this request: {error}") from None
        self.open[request.name] = request
        return request

    def abort(self, request: Asked) -> None:
        """End it before the next step."""
        if self.open.pop(request.name, None) is not None:
            self.engine.abort_request([request.name])
            request.finish = "abort"

    def step(self) -> Iterable[Asked]:
        """One step of vLLM's engine."""
        told = []
        for output in self.engine.step():
            request = self.open.get(output.request_id)
            if request is None:
                continue
            one = output.outputs[0]
            request.text += one.text
            request.tokens += len(one.token_ids)
            if request.logprobs is not None and one.logprobs:
                request.logprobs += [
                    _logprob(token, found, request.likeliest)
                    for token, found in zip(one.token_ids, one.logprobs, strict=True)
                ]
            if output.finished:
                request.finish = "length" if one.finish_reason == "length" else "stop"
                del self.open[request.name]
            told.append(request)
        return told

    def news(self, request: Asked) -> Message:
        """New text, all tokens, and how it ended."""
        item: Message = {"text": request.text, "tokens": request.tokens}
        request.text = ""
        if request.logprobs is not None:
            item["logprobs"], request.logprobs = request.logprobs, []
        if request.finish is not None:
            item["finish"] = request.finish
        return item

    def position(self, request: Asked) -> int:
        """Tokens so far."""
        return request.tokens

    def stats(self) -> dict[str, int]:
        """Requests under way; vLLM keeps the other counts to itself."""
        return {"running": len(self.open)}

    def change_adapter(self, name: str, folder: str | None) -> None:
        """Not here."""
        raise UsageError("Adapters are not passed on to vLLM; merge them, or use Weft's own engine.")


def _logprob(token: int, found: dict[int, Any], most: int) -> list[Any]:
    """As :data:`weft.server.wire.Logprob`: the drawn token, and the ``most`` likeliest."""
    ranked = sorted(found.items(), key=lambda item: int(item[1].rank))
    top = [[other, value.logprob] for other, value in ranked if value.rank <= most]
    return [token, found[token].logprob, top]


def open_worker(order: Message) -> tuple[VllmWorker, Message]:
    """vLLM around the checkpoint that the server names. Raises ResourceError."""
    # The engine in this process: its own processes are this one. No reports to its makers, no hub.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        vllm = importlib.import_module("vllm")
        engine = vllm.LLM(
            model=order["checkpoint"],
            dtype=order["dtype"] or "auto",
            max_num_seqs=order["max_sequences"],
            **{"disable_log_stats": True, **order["settings"]},
        ).llm_engine
    except Exception as error:
        # Whatever a foreign engine raises is why it cannot load.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResourceError(f"vLLM cannot load {order['checkpoint']}: {reason}") from error
    shape = engine.model_config
    return VllmWorker(vllm, engine, shape.max_model_len), {
        "context": shape.max_model_len,
        "vocabulary": shape.get_vocab_size(),
        "hidden": shape.get_hidden_size(),
        "supported": list(SUPPORTED),
    }


if __name__ == "__main__":
    work(int(sys.argv[1]), open_worker)
