"""fp8 under a plan: rows have scales of their own, so cutting rows changes nothing, cutting sums a little."""

import pytest
from tests.parallel.parity import Case, train
from tests.parallel.ranks import Ranks, slow


@pytest.mark.parametrize(
    ("plan", "bound"), [("dp=2", 2e-3), ("tp=2", 2e-2), *slow(("fsdp=2", 2e-3), ("pp=2", 1e-6))]
)
def test_two_ranks_in_fp8_are_one(two: Ranks, plan: str, bound: float) -> None:
    case = Case(rate=0.003, micro_rows=1, dtype="bfloat16", float8=True)
    expected, _ = train("", case)
    for losses, _ in two.run(train, plan, case):
        assert losses == pytest.approx(expected, rel=bound)
