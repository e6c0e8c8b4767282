"""Exponential moving average of the weights, for evaluation (Polyak averaging; arXiv:1803.05407)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from weft.ops.local import local


class Average:
    """fp32 averages of all parameters. The decay grows from 0, so early random weights are forgotten."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after step ``step`` (from 0) in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # This rank's parts: lists of tensors cut in different ways cannot be worked on at once.
        parameters = [local(p).float() for p in model.parameters()]
        torch._foreach_lerp_([local(w) for w in self.weights.values()], parameters, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights inside the block."""
        kept: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                kept[name] = parameter.detach().clone()
                parameter.copy_(self.weights[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(kept[name])
