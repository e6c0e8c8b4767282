"""Muon for stacks of matrices: the weights of all experts in one tensor, each matrix updated on its own.

The same update as :class:`torch.optim.Muon` (Jordan et al. 2024; the scale of arXiv:2502.16982), which
takes single matrices only. X matrices of O rows and I columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
EPS = 1e-7


class StackedMuon(torch.optim.Optimizer):
    """``params`` are [X, O, I], or cut along X over ranks; the state is as in :class:`torch.optim.Muon`."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        weight, gradient, momentum = map(_local, (parameter, parameter.grad, state["momentum_buffer"]))
        momentum.lerp_(gradient, 1.0 - group["momentum"])
        update = orthogonal(gradient.lerp(momentum, group["momentum"]))
        scale = 0.2 * math.sqrt(max(weight.shape[-2:]))
        weight.mul_(1.0 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * scale)


def orthogonal(x_XOI: Tensor) -> Tensor:
    """bf16 [X, O, I]: each matrix with its singular values near 1, by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    tall = x_XOI.shape[-2] > x_XOI.shape[-1]
    x = x_XOI.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _local(x: Any) -> Any:
    return x.to_local() if isinstance(x, DTensor) else x
