"""Buckets of neighbouring tokens: of their own document only, spread evenly, the same everywhere."""

from __future__ import annotations

import torch

from weft.ops.bigrams import bigrams
from weft.ops.both_ways import BothWays


def test_a_pair_has_one_bucket_wherever_it_stands_and_ends_have_their_own() -> None:
    tokens = torch.tensor([[5, 6, 7, 5, 6, 9]])
    before, after = bigrams(tokens, BothWays(torch.tensor([[0, 0, 0, 3, 3, 3]])), 1 << 20, 50)
    # (5, 6) stands twice: behind 6 looking back, behind 5 looking ahead.
    assert before[0, 1] == before[0, 4] == after[0, 0] == after[0, 3]
    assert before[0, 0] == before[0, 3] and before[0, 3] != before[0, 1]
    assert after[0, 2] != after[0, 5], "7 and 9 end their documents"
    assert len({int(x) for x in (*before[0], *after[0])}) == 6
    assert bigrams(torch.tensor([[6, 5]]), BothWays(torch.zeros(1, 2)), 1 << 20, 50)[1][0, 0] != after[0, 0]


def test_pairs_are_spread_over_all_buckets() -> None:
    first, second = torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij")
    tokens = torch.stack([first.flatten(), second.flatten()], 1)
    context = BothWays(torch.zeros_like(tokens))
    for buckets in (1000, 1 << 12):
        _, after = bigrams(tokens, context, buckets, 300)
        assert int(after.min()) >= 0
        assert int(after.max()) < buckets
        counts = torch.bincount(after[:, 0], minlength=buckets).float()
        mean = 90_000 / buckets
        # As thrown by chance: the variance of each count is near its mean.
        assert 0.5 * mean < float(counts.var()) < 1.5 * mean


def test_buckets_are_those_of_checkpoints_that_exist() -> None:
    before, after = bigrams(torch.tensor([[1, 70_000]]), BothWays(torch.zeros(1, 2)), 131072, 262144)
    assert before.tolist() + after.tolist() == PINNED


PINNED = [[91787, 9706], [9706, 74515]]
