"""What fails with one request, or for want of memory, ends no other and leaves the engine whole."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import pytest
import torch

from weft.engine import LLM, SamplingParams
from weft.engine.weights import for_inference
from weft.ops import whole_step


def finish(engine):
    while engine.scheduler.busy:
        engine.step()


class Broken:
    """A text that fails when its third token comes."""

    def __init__(self, text):
        self.text, self.left, self.stopped = text, 3, False

    def push(self, token):
        self.left -= 1
        if not self.left:
            raise RuntimeError("no such token")
        return self.text.push(token)

    def finish(self):
        raise RuntimeError("no end")


def test_what_fails_with_one_text_ends_no_other(tiny_decoder, tiny_tokenizer, caplog):
    engine = LLM(tiny_decoder(), tiny_tokenizer, cache_bytes=10**6)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    wanted = engine.generate([[3, 4, 5]], params)[0].tokens
    requests = [engine.add([3, 4, 5], params), engine.add([5, 6, 7], params)]
    requests[1].text = Broken(requests[1].text)
    finish(engine)
    assert list(requests[0].generated) == list(wanted)
    assert "no such token" in requests[1].error and requests[1].finish_reason == "abort"
    assert "in push" in caplog.text  # the log says where
    engine.abort(requests[1])
    ending = engine.add([5, 6, 7], params)
    ending.text = Broken(ending.text)
    engine.step()
    engine.abort(ending)
    assert "no end" in ending.error and ending.finish_reason == "abort"
    assert engine.stats().free_blocks == engine.stats().total_blocks


def test_want_of_memory_for_one_prompt_ends_no_other(tiny_decoder, tiny_tokenizer, monkeypatch):
    engine = LLM(tiny_decoder(), tiny_tokenizer, cache_bytes=10**6)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    wanted = engine.generate([[3, 4, 5]], params)[0].tokens

    def none_left(*asked):
        raise MemoryError("none left")

    monkeypatch.setattr("weft.engine.runner.logprobs", none_left)
    requests = [
        engine.add([3, 4, 5], params),
        engine.add([5, 6, 7], dataclasses.replace(params, prompt_logprobs=2)),
    ]
    finish(engine)
    assert list(requests[0].generated) == list(wanted)
    assert "none left" in requests[1].error and not requests[1].generated


class WithoutMemory:
    """PyTorch as a module sees it, whose ``empty`` finds no memory the ``at``-th time."""

    def __init__(self, at):
        self.left = at

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, *shape, **how):
        self.left -= 1
        if not self.left:
            raise RuntimeError("no memory")
        return torch.empty(*shape, **how)


def test_want_of_memory_for_a_longer_step_leaves_its_buffers_whole(tiny_decoder, tiny_tokenizer, monkeypatch):
    packed = for_inference(tiny_decoder(), torch.device("cpu"), "float32")
    if getattr(packed, "_whole", None) is None:
        pytest.skip("no compiler here")
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    prompt = [3, 4, 5] * 15
    wanted = LLM(packed, tiny_tokenizer, cache_bytes=10**6).generate([prompt], params)[0].tokens
    for at in itertools.count(1):
        packed = for_inference(tiny_decoder(), torch.device("cpu"), "float32")
        engine = LLM(packed, tiny_tokenizer, cache_bytes=10**6)
        request, fake = engine.add(prompt, params), WithoutMemory(at)
        monkeypatch.setattr(whole_step, "torch", fake)
        with contextlib.suppress(RuntimeError):
            engine.step()
        monkeypatch.undo()
        finish(engine)
        assert list(request.generated) == list(wanted), at
        if fake.left > 0:
            break
    assert at > 8
