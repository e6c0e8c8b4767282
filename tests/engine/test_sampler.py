"""Penalties and random numbers as plain logic, settings against nonsense."""

from __future__ import annotations

import pytest
import torch

from weft.core.errors import UsageError
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
