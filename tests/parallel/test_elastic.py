"""A plan that follows the number of processes."""

from __future__ import annotations

import pytest

from weft.core.errors import ConfigError
from weft.parallel.elastic import fitted
from weft.parallel.plan import Plan


def test_only_the_elastic_size_follows() -> None:
    plan = Plan(dp=4, tp=2)
    assert fitted(plan, 4, "dp") == Plan(dp=2, tp=2)
    assert fitted(plan, 16, "dp") == Plan(dp=8, tp=2)
    assert fitted(Plan(fsdp=4), 2, "fsdp") == Plan(fsdp=2)
    assert fitted(plan, 8, "dp") is plan and fitted(plan, 4, "none") is plan


def test_processes_that_the_fixed_sizes_do_not_divide_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"cannot fit the plan dp=4,tp=2 to 3 processes: .* multiple of 2; start 2\."
    ):
        fitted(Plan(dp=4, tp=2), 3, "dp")
    with pytest.raises(ConfigError, match=r"start 4\."):
        fitted(Plan(dp=2, tp=4), 2, "dp")
