"""Filters against plain references, draws against their distribution, settings against nonsense."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from weft.core.errors import UsageError
from weft.engine.params import SamplingParams, uniform
from weft.engine.sampler import candidates, draw, penalise


def reference(scores: list[float], params: SamplingParams) -> dict[int, float]:
    """The documented order, written out over a dictionary."""
    top = max(scores)
    weights = {i: math.exp((s - top) / params.temperature) for i, s in enumerate(scores)}

    def normalise(kept: dict[int, float]) -> dict[int, float]:
        total = sum(kept.values())
        return {i: w / total for i, w in sorted(kept.items(), key=lambda pair: -pair[1])}

    kept = normalise(weights)
    if params.top_k:
        kept = normalise(dict(list(kept.items())[: params.top_k]))
    if params.top_p < 1:
        before, nucleus = 0.0, {}
        for token, weight in kept.items():
            if before < params.top_p:
                nucleus[token] = weight
            before += weight
        kept = normalise(nucleus)
    best = max(kept.values())
    return normalise({i: w for i, w in kept.items() if w >= params.min_p * best})


def filtered(scores: torch.Tensor, params: SamplingParams) -> dict[int, float]:
    weights, ids = candidates(scores, params)
    tokens = range(len(scores)) if ids is None else ids.tolist()
    return dict(zip(tokens, (weights / weights.sum()).tolist(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 5},
        {"top_k": 10_000},
        {"top_p": 0.4},
        {"top_p": 0.999},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"temperature": 0.7, "top_k": 50, "top_p": 0.8, "min_p": 0.05},
        {"temperature": 5.0, "top_p": 0.97, "min_p": 0.3},
    ],
)
def test_filters_equal_the_plain_reference(settings):
    params = SamplingParams(**settings)
    for seed in range(5):
        scores = torch.randn(700, generator=torch.Generator().manual_seed(seed)) * 3
        expected = reference(scores.tolist(), params)
        actual = filtered(scores, params)
        assert actual.keys() == expected.keys()
        assert actual == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_extreme_temperatures_and_scores_stay_numbers():
    scores = torch.tensor([1e30, -1e30, 5.0, float("-inf")])
    for temperature in (2e-5, 100.0):
        weights, _ = candidates(scores, SamplingParams(temperature=temperature))
        assert torch.isfinite(weights).all() and float(weights[0]) == 1.0


def test_the_penalty_makes_seen_tokens_less_likely():
    scores = torch.tensor([2.0, -2.0, 1.0])
    assert penalise(scores, [0, 1, 1], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert scores.tolist() == [2.0, -2.0, 1.0]


def test_draws_follow_the_weights():
    weights = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    counts = Counter(draw(weights, None, uniform(9, i)) for i in range(5000))
    assert set(counts) == {1, 3, 4}
    assert counts[1] / 5000 == pytest.approx(0.5, abs=0.03)
    assert counts[4] / 5000 == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_a_draw_never_takes_what_has_no_weight(number):
    weights = torch.tensor([0.0, 1e-30, 1.0, 0.0])
    assert draw(weights, None, number) in (1, 2)
    assert draw(weights[:3].flip(0), torch.tensor([30, 20, 10]), number) in (30, 20)


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
