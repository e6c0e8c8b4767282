"""Relative position buckets (T5, arXiv:1910.10683, section 2.1): near distances apart, far ones together.

Dimensions: S queries, U keys, H heads, B batch rows, D head size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def buckets(query_S: Tensor, key_U: Tensor, count: int, farthest: int, *, both_ways: bool) -> Tensor:
    """int64 [S, U]: the bucket, of ``count``, of each key seen from each query (int64 positions).

    Half of the buckets hold one distance each, the others grow by a constant factor up to ``farthest``,
    beyond which all share the last. Both ways, keys ahead have half of all buckets for themselves; else they
    are at distance 0.
    """
    offset = key_U.unsqueeze(0) - query_S.unsqueeze(1)
    ahead = torch.zeros_like(offset)
    if both_ways:
        count //= 2
        ahead = (offset > 0).long() * count
        distance = offset.abs()
    else:
        distance = (-offset).clamp(min=0)
    exact = count // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(farthest / exact)
    far = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
    return ahead + torch.where(distance < exact, distance, far)


def biased_attention(q_BHSD: Tensor, k_BHUD: Tensor, v_BHUD: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) v, [B, H, S, D]; scores are not scaled, as T5's weights hold the scale.

    ``bias`` [B or 1, H or 1, S, U] in the dtype of q, -infinity where a key is not seen.
    """
    return F.scaled_dot_product_attention(q_BHSD, k_BHUD, v_BHUD, attn_mask=bias, scale=1.0)


def biased_attention_plain(q_BHSD: Tensor, k_BHUD: Tensor, v_BHUD: Tensor, bias: Tensor) -> Tensor:
    """Reference of :func:`biased_attention`, every score written out in fp32."""
    scores = q_BHSD.float() @ k_BHUD.float().transpose(-1, -2) + bias.float()
    return (scores.softmax(-1) @ v_BHUD.float()).to(q_BHSD.dtype)
