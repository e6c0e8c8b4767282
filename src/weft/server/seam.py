"""The one place where the server touches the engine's interface.

A setting that :class:`~weft.engine.SamplingParams` does not have is reported as missing by
:func:`supported`, and the routes answer requests for it with 400.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from weft.engine import LLM, SamplingParams
from weft.engine.params import Grammar
from weft.engine.sequence import Sequence
from weft.ops.attention import PackedRows
from weft.server.wire import Logprob


def supported() -> list[str]:
    """Names of the settings a request may carry."""
    return sorted({*(field.name for field in dataclasses.fields(SamplingParams)), "owner", "adapter"})


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


def add(llm: LLM, tokens: list[int], params: SamplingParams, owner: str, adapter: str | None) -> Sequence:
    """Queue a request in the engine, for the key ``owner``."""
    return llm.add(tokens, params, owner=owner, adapter=adapter)


def change_adapter(llm: LLM, name: str, folder: str | None) -> None:
    """Load an adapter, or unload it where ``folder`` is None. WeftError when that cannot be done."""
    if folder is None:
        llm.unload_adapter(name)
    else:
        llm.adapters.load(name, folder)


def logprobs(sequence: Sequence, start: int) -> list[Logprob] | None:
    """Of the new tokens from the ``start``-th on; None when the request did not ask for them."""
    if sequence.params.logprobs is None:
        return None
    return [
        [entry.token, entry.logprob, [[token, value] for token, value in entry.top]]
        for entry in sequence.logprobs[start:]
    ]


def position(sequence: Sequence) -> int:
    """A number that grows whenever the engine has done something for ``sequence``."""
    return len(sequence.tokens) + sequence.cached


def stats(llm: LLM) -> dict[str, int]:
    """Counts of the moment: running and waiting requests, free and all blocks, and what has been done."""
    return dict(dataclasses.asdict(llm.stats()))


@torch.inference_mode()
def embed(llm: LLM, tokens: list[int]) -> Tensor:
    """fp32 [E]: the mean of the last hidden states of all ``tokens``, at length 1."""
    model = llm.runner.model
    ids = torch.tensor([tokens], device=model.embedding.weight.device)
    rows = PackedRows(torch.zeros_like(ids, dtype=torch.int32), model.config.sliding_window)
    hidden: Tensor = model(ids, rows)[0].float().mean(0)
    return torch.nn.functional.normalize(hidden, dim=0).cpu()
