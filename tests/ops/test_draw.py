"""Filters against a reference written out, draws against their distribution, the native path against both."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from weft.ops.draw import (
    Draw,
    candidates,
    draw_plain,
    draw_rows,
    draw_together,
    greatest_plain,
    greatest_rows,
)

SETTINGS = [
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
]


def draw_of(**settings) -> Draw:
    return Draw(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "number": 0.5, **settings})


def reference(scores: list[float], params: Draw) -> dict[int, float]:
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


def filtered(scores: torch.Tensor, params: Draw) -> dict[int, float]:
    weights, ids = candidates(scores, params)
    tokens = range(len(scores)) if ids is None else ids.tolist()
    return dict(zip(tokens, (weights / weights.sum()).tolist(), strict=True))


@pytest.mark.parametrize("settings", SETTINGS)
def test_filters_equal_the_plain_reference(settings):
    params = draw_of(**settings)
    for seed in range(5):
        scores = torch.randn(700, generator=torch.Generator().manual_seed(seed)) * 3
        expected = reference(scores.tolist(), params)
        actual = filtered(scores, params)
        assert actual.keys() == expected.keys()
        assert actual == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_native_path_draws_what_the_plain_one_draws(settings):
    generator = torch.Generator().manual_seed(7)
    scores = torch.randn(4, 5_003, generator=generator) * 3
    scores[1, ::2] = -math.inf
    numbers = torch.rand(400, generator=generator, dtype=torch.float64).tolist()
    rows = [i % 4 for i in range(400)]
    draws = [draw_of(**settings, number=number) for number in numbers]
    native = draw_rows(scores, rows, draws)
    plain = [draw_plain(scores[row], draw) for row, draw in zip(rows, draws, strict=True)]
    # A number on the border of two tokens may fall to either: sums are rounded differently.
    assert sum(a != b for a, b in zip(native, plain, strict=True)) <= 3
    assert all(row != 1 or token % 2 for row, token in zip(rows, native, strict=True))


def test_rows_draw_alone_what_they_draw_together():
    scores = torch.randn(9, 1_000, generator=torch.Generator().manual_seed(1))
    wide = torch.cat((torch.randn(9, 7), scores), 1)[:, 7:]
    draws = [draw_of(top_p=0.9, number=i / 9) for i in range(9)]
    together = draw_rows(wide, list(range(9)), draws)
    assert together == [draw_rows(scores[i : i + 1], [0], [draws[i]])[0] for i in range(9)]


@pytest.mark.parametrize(
    "path", [draw_plain, lambda scores, draw: draw_rows(scores.unsqueeze(0), [0], [draw])[0]]
)
def test_draws_follow_the_weights(path):
    scores = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0]).log()
    numbers = [(i + 0.5) / 1000 for i in range(1000)]
    counts = Counter(path(scores, draw_of(number=number)) for number in numbers)
    assert counts == {1: 500, 3: 300, 4: 200}
    sharper = Counter(path(scores, draw_of(number=number, temperature=0.5, top_k=2)) for number in numbers)
    assert sharper[1] / 1000 == pytest.approx(0.25 / 0.34, abs=0.002) and set(sharper) == {1, 3}


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 0.1}])
@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_a_draw_never_takes_what_has_no_weight(settings, number):
    scores = torch.tensor([-math.inf, -60.0, 0.0, -math.inf])
    draw = draw_of(number=number, **settings)
    assert draw_plain(scores, draw) in (1, 2)
    assert draw_rows(scores.unsqueeze(0), [0], [draw])[0] in (1, 2)


@pytest.mark.parametrize("temperature", [2e-5, 100.0])
def test_extreme_temperatures_and_scores_stay_numbers(temperature):
    scores = torch.tensor([1e30, -1e30, 5.0, float("-inf")])
    weights, _ = candidates(scores, draw_of(temperature=temperature))
    assert torch.isfinite(weights).all() and float(weights[0]) == 1.0
    draws = [replace(draw_of(temperature=temperature), number=number) for number in (0.0, 0.999)]
    assert draw_rows(scores.unsqueeze(0), [0, 0], draws) == [0, 0]


@pytest.mark.parametrize("path", [lambda s, d: draw_rows(s.unsqueeze(0), [0], [d])[0], draw_plain])
@pytest.mark.parametrize("top_p", [1e-320, 1e-45, 1e-8])
@pytest.mark.parametrize("more", [{}, {"top_k": 3}, {"min_p": 1.0}])
def test_a_nucleus_too_small_for_a_float_is_the_best_token(path, top_p, more):
    scores = torch.randn(500, generator=torch.Generator().manual_seed(4))
    assert path(scores, draw_of(top_p=top_p, number=0.99, **more)) == int(scores.argmax())


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 31, 33, 517, 70_000])
def test_the_greatest_score_is_the_first_one_that_is_greatest(width):
    generator = torch.Generator().manual_seed(width)
    # Few distinct scores, so that most rows have their greatest several times.
    wide = torch.randint(-3, 4, (9, width + 3), generator=generator).float()
    scores = wide[:, :width]
    scores[1], scores[2], scores[3, -1], scores[4, width // 2] = -math.inf, math.nan, math.nan, math.inf
    scores[5, width // 3] = -math.inf
    (found, tokens), (expected, places) = greatest_rows(scores), greatest_plain(scores)
    assert tokens == places
    assert [str(score) for score in found] == [str(score) for score in expected]
    for row in (0, 4, 6, 7, 8):
        assert tokens[row] == scores[row].tolist().index(max(scores[row].tolist()))


def test_many_rows_drawn_at_once_are_those_of_the_plain_path(monkeypatch):
    monkeypatch.setattr("weft.ops.draw._TOGETHER", 7)
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(40, 3000, generator=generator) * 4
    rows = list(range(39, 0, -2))
    numbers = [0.0, math.nextafter(1.0, 0.0), *torch.rand(len(rows) - 2, generator=generator).tolist()]
    draws = [draw_of(temperature=0.3 + 0.1 * i, number=number) for i, number in enumerate(numbers)]
    expected = [draw_plain(scores[row], draw) for row, draw in zip(rows, draws, strict=True)]
    assert draw_together(scores, rows, draws) == expected
