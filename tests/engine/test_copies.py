"""Answers through attention over copies, as on a GPU, are those of the kernel."""

from __future__ import annotations

import pytest
import torch

from weft.engine import LLM, SamplingParams
from weft.engine.runner import prepare
from weft.ops import paged

SHAPES = {
    "grouped": {},
    "window": {"sliding_window": 21, "qk_norm": False, "architecture": "MistralForCausalLM"},
    "one group": {"num_key_value_heads": 1},
}
PROMPTS = [
    [5],
    [7, 8, 9],
    list(range(40, 75)),
    [3, 1, 4, 1] * 12,
    [(7 * i * i + 3 * i) % 500 for i in range(83)],
]


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_those_of_the_kernel(shape, tiny_decoder, tiny_tokenizer, monkeypatch):
    model = prepare(tiny_decoder(**SHAPES[shape]), torch.device("cpu"), torch.float32)
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)

    def answers():
        engine = LLM(model, tiny_tokenizer, max_sequences=4, token_budget=40)
        sequences = [engine.add(prompt, params) for prompt in PROMPTS]
        while not all(sequence.finished for sequence in sequences):
            engine.step()
        return sequences

    expected, calls = answers(), []

    def copies(*arguments):
        calls.append(arguments)
        return paged.attend_gathered(*arguments)

    monkeypatch.setattr(paged, "_kernel", lambda *given: None)
    monkeypatch.setattr(paged, "attend_plain", copies)
    for found, right in zip(answers(), expected, strict=True):
        assert found.generated == right.generated
        for ours, theirs in zip(found.logprobs, right.logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert calls
