"""Penalties and random numbers as plain logic, settings against nonsense."""

from __future__ import annotations

import math

import pytest
import torch

from weft.core.errors import UsageError
from weft.engine import LLM
from weft.engine.params import SamplingParams, uniform
from weft.engine.sampler import penalise


def test_the_penalty_makes_seen_tokens_less_likely():
    scores = torch.tensor([2.0, -2.0, 1.0])
    assert penalise(scores, [0, 1, 1], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert scores.tolist() == [2.0, -2.0, 1.0]


def test_uniform_numbers_are_spread_and_depend_on_both():
    numbers = [uniform(1, i) for i in range(4000)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 4000 == pytest.approx(0.5, abs=0.02)
    assert len({uniform(seed, position) for seed in range(50) for position in range(50)}) == 2500


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", 2**40),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("nan")),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", 10**30),
        ("seed", 2**70),
        ("seed", 0.5),
        ("stop", "text"),
        ("stop", ("",)),
    ],
)
def test_settings_that_make_no_sense_name_themselves(name, value):
    with pytest.raises(UsageError, match=name):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}, {}])
def test_where_no_token_has_any_probability_the_request_fails_and_no_other(
    tiny_decoder, tiny_tokenizer, settings, monkeypatch
):
    engine = LLM(tiny_decoder(), tiny_tokenizer, cache_bytes=10**6)
    plain = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    wanted = engine.generate([[3, 4, 5]], plain)[0].tokens
    changed = SamplingParams(**settings, max_tokens=4, logit_bias={7: 1.0})
    monkeypatch.setattr(
        "weft.engine.sampler.change", lambda scores_V, *given: torch.full_like(scores_V, -math.inf)
    )
    requests = [engine.add([3, 4, 5], plain), engine.add([5, 6], changed)]
    while engine.scheduler.busy:
        engine.step()
    assert list(requests[0].generated) == list(wanted)
    assert requests[1].finish_reason == "abort" and "No token may follow" in requests[1].error
