"""Data parallel: ranks that read different rows train one model."""

from tests.parallel.parity import Case, compare
from tests.parallel.ranks import Ranks


def test_two_replicas_are_one_process(two: Ranks) -> None:
    compare(two, "dp=2", Case())


def test_a_rank_without_targets_adds_nothing(four: Ranks) -> None:
    compare(four, "dp=4", Case(steps=3))
