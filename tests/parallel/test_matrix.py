"""The whole parity matrix, 50 steps in fp32 and in bf16; minutes long."""

from __future__ import annotations

from typing import Any

import pytest
from tests.parallel.matrix import PLANS, measure
from tests.parallel.ranks import Ranks

IDS = [f"{plan}{'-untied' if shape.get('tie_word_embeddings') is False else ''}" for _, plan, shape in PLANS]


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Ranks:
    """As many processes as the plan of the test has."""
    size = request.node.callspec.params["size"]
    found: Ranks = request.getfixturevalue({2: "two", 4: "four", 8: "eight"}[size])
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("size", "plan", "shape"), PLANS, ids=IDS)
def test_fifty_steps_of_any_plan_are_those_of_one_process(
    ranks: Ranks, size: int, plan: str, shape: dict[str, Any]
) -> None:
    exact = measure(ranks, plan, shape, 50, "float32")
    assert exact.loss < 1e-4 and exact.gradient < 1e-4
    rounded = measure(ranks, plan, shape, 50, "bfloat16")
    assert rounded.loss < 1e-2
