"""Dropout (Srivastava et al. 2014) from few random numbers: one draw of 64 bits decides eight values.

The rate is rounded to 1/256, and what is kept is scaled by the rounded rate, so that means are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 256
_LEAST = -(1 << 63)


def dropped_share(rate: float) -> float:
    """The share that :func:`dropout` really drops."""
    return min(round(rate * STEPS), STEPS - 1) / STEPS


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """``x`` with a share of its values set to 0 and the others scaled up; ``x`` itself when not training.

    Draws from PyTorch's generator of the device, so a saved state of it gives the same values again.
    """
    if not training or rate <= 0.0:
        return x
    share = dropped_share(rate)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(_LEAST, None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= round(share * STEPS)
    return x * kept.to(x.dtype).mul_(1.0 / (1.0 - share))


def dropout_plain(x: Tensor, rate: float, training: bool) -> Tensor:
    """Reference: PyTorch's own, with a draw for every value."""
    return torch.nn.functional.dropout(x, rate, training)
