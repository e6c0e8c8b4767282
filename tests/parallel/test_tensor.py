"""Tensor parallel: matrices, positions and the vocabulary cut over ranks train the model of one process."""

from tests.parallel.parity import Case, compare
from tests.parallel.ranks import Ranks


def test_two_ranks_are_one_process(two: Ranks) -> None:
    compare(two, "tp=2", Case())
