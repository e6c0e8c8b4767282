"""Exponential moving average of the weights, for evaluation (Polyak averaging; arXiv:1803.05407)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from weft.ops.local import local
from weft.parallel import fsdp


class Average:
    """fp32 averages of all parameters, spread as these are.

    The decay grows from 0, so early random weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after step ``step`` (from 0) in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # This rank's parts: lists of tensors cut in different ways cannot be worked on at once.
        parameters = [local(p.detach()).float() for p in model.parameters()]
        averages = [local(weight) for weight in self.weights.values()]
        torch._foreach_lerp_(averages, parameters, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights inside the block."""
        fsdp.forget(model)
        parameters = {name: local(p.detach()) for name, p in model.named_parameters()}
        kept = {name: part.clone() for name, part in parameters.items()}
        for name, part in parameters.items():
            part.copy_(local(self.weights[name]))
        try:
            yield
        finally:
            fsdp.forget(model)
            for name, part in parameters.items():
                part.copy_(kept[name])
