"""Pairs of neighbouring tokens as rows of a table, by hashing (arXiv:1607.01759, section 3).

In Chinese, where tokens are characters, many words are pairs: which pair a character stands in tells what
it means there. Dimensions: B batch rows, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.both_ways import BothWays

# Odd numbers below 2^31: products with token ids stay below 2^63.
_FIRST, _SECOND = 0x4F1BBCDD, 0x27D4EB2F


def bigrams(tokens_BT: Tensor, context: BothWays, buckets: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """int64 [B, T] twice, below ``buckets``: the pair with the token before, that with the token after.

    Beyond the ends of a document stands ``vocab_size``, which is no token. Two pairs may share a bucket.
    """
    place = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    before = torch.where(place > context.start, tokens_BT.roll(1, 1), vocab_size)
    after = torch.where(place + 1 < context.end, tokens_BT.roll(-1, 1), vocab_size)
    return _bucket(before, tokens_BT, buckets), _bucket(tokens_BT, after, buckets)


def _bucket(first: Tensor, second: Tensor, buckets: int) -> Tensor:
    mixed = first * _FIRST + second * _SECOND
    return ((mixed ^ (mixed >> 17)) & 0x7FFFFFFF) % buckets
