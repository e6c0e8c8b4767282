"""Dropout from few random numbers: the share, the mean, its gradient, and that a saved state repeats it."""

from __future__ import annotations

import pytest
import torch

from weft.ops.dropout import dropout, dropout_plain, dropped_share


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("size", [200_000, 200_003])
def test_share_and_mean_are_those_of_the_plain_one(rate: float, size: int) -> None:
    torch.manual_seed(0)
    x = torch.ones(size)
    for found in (dropout(x, rate, True), dropout_plain(x, rate, True)):
        assert float((found == 0).float().mean()) == pytest.approx(rate, abs=0.01)
        assert float(found.mean()) == pytest.approx(1.0, abs=0.03)
    values = sorted(dropout(x, rate, True).unique().tolist())
    assert values == [0.0, pytest.approx(1 / (1 - dropped_share(rate)))]


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1 << 20), 0.5, True) > 0).float() - 0.5
    for distance in (1, 2, 7, 8, 64):
        assert abs(float((kept[distance:] * kept[:-distance]).mean())) < 0.002


def test_nothing_happens_outside_training_or_at_the_rate_0() -> None:
    x = torch.randn(7)
    assert dropout(x, 0.5, False) is x and dropout(x, 0.0, True) is x


def test_the_gradient_passes_where_the_value_passed_and_a_state_repeats_it() -> None:
    x = torch.randn(4, 33, dtype=torch.bfloat16).requires_grad_()
    state = torch.get_rng_state()
    found = dropout(x, 0.3, True)
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, found == 0)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.3, True), found)
