"""Matrix products with fp32 masters and work in another dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``(x, weight, bias)`` to x @ weight.T + bias."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias in the dtype of ``x``; gradients reach the master in the master's dtype."""
    work = weight.to(x.dtype)
    return F.linear(x, work, None if bias is None else bias.to(x.dtype))
