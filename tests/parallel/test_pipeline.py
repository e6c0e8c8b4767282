"""Pipelines train the same model as one process, on every schedule."""

import pytest
from tests.parallel.parity import Case, bf16, compare
from tests.parallel.ranks import Ranks

CASE = Case(steps=3, micro_rows=1)


@pytest.mark.parametrize(
    "plan",
    [
        "pp=2,schedule=gpipe",
        "pp=2,schedule=1f1b",
        "pp=2,schedule=interleaved,stages_per_rank=2",
        "pp=2,schedule=zero-bubble,stages_per_rank=2",
    ],
)
def test_schedules_on_two_ranks(two: Ranks, plan: str) -> None:
    compare(two, plan, CASE)
