"""Memory for a model that was laid out on the meta device: each rank takes that of its own parts only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def on_meta(module: nn.Module) -> bool:
    """Whether any parameter has no memory yet."""
    return any(parameter.is_meta for parameter in module.parameters())


def materialise(module: nn.Module, device: torch.device) -> None:
    """Give every parameter without memory its own, uninitialised, on ``device``; shared ones stay shared."""
    made: dict[Tensor, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if not parameter.is_meta:
                continue
            if parameter not in made:
                empty = torch.empty_like(parameter.detach(), device=device)
                made[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                made[parameter].__dict__.update(parameter.__dict__)
            owner.register_parameter(name, made[parameter])
