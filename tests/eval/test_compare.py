"""Bootstrap and Wilson intervals."""

from __future__ import annotations

import numpy as np
import pytest

from weft.core.errors import DataError
from weft.eval.compare import paired, ratio, wilson


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sizes = generator.uniform(500, 1500, 60)
        found = ratio(sizes * generator.normal(1.2, 0.3, 60), sizes, seed=trial, draws=300)
        assert found.low <= found.value <= found.high
        hits += found.low <= 1.2 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_equal_seeds_give_equal_intervals() -> None:
    bits, sizes = np.arange(1.0, 30.0), np.full(29, 10.0)
    assert ratio(bits, sizes, seed=3) == ratio(bits, sizes, seed=3) != ratio(bits, sizes, seed=4)


def test_pairing_finds_a_small_steady_difference() -> None:
    generator = np.random.default_rng(1)
    sizes = generator.uniform(500, 1500, 50)
    first = sizes * generator.normal(1.2, 0.5, 50)
    found = paired(first, first + 0.01 * sizes, sizes)
    assert found.difference.value == pytest.approx(-0.01)
    assert found.difference.high < 0
    assert found.first_lower == 1.0


@pytest.mark.parametrize("successes", [0, 3, 10])
def test_wilson_stays_inside(successes: int) -> None:
    found = wilson(successes, 10)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.2


def test_wilson_equals_the_published_example() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263.
    assert wilson(81, 263).low == pytest.approx(0.2553, abs=5e-5)
    assert wilson(81, 263).high == pytest.approx(0.3662, abs=5e-5)


def test_bad_input() -> None:
    with pytest.raises(DataError):
        ratio(np.array([]), np.array([]))
    with pytest.raises(DataError):
        ratio(np.array([1.0]), np.array([0.0]))
    with pytest.raises(DataError):
        paired(np.ones(2), np.ones(3), np.ones(2))
    with pytest.raises(DataError):
        wilson(0, 0)
