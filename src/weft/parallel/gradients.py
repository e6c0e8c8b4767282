"""Gradients over all ranks: their one norm, and clipping by it.

A gradient that several ranks hold a copy of counts once. The sum runs in double precision, so that the
order of ranks and parameters does not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from weft.ops.local import local
from weft.parallel.mesh import Mesh

COPIES = "weft_copies"
"""An attribute of a parameter: how many pipeline stages hold it (tied embeddings)."""


def copies(parameter: nn.Parameter, mesh: Mesh) -> int:
    """Ranks of the world that hold the same values as this rank's part of ``parameter``."""
    if mesh.grid is None:
        return 1
    parts = 1
    if isinstance(parameter, DTensor):
        for size, placement in zip(parameter.device_mesh.shape, parameter.placements, strict=True):
            parts *= 1 if placement.is_replicate() else size
    stages = int(getattr(parameter, COPIES, 1))
    return mesh.world.size // mesh.size("pp") * stages // parts


def norm(parameters: Iterable[nn.Parameter], mesh: Mesh) -> float:
    """The 2-norm of all gradients of the whole model; not finite on every rank if it is not on one."""
    held = [(local(p.grad), copies(p, mesh)) for p in parameters if p.grad is not None]
    if not held and mesh.grid is None:
        return 0.0
    device = held[0][0].device if held else mesh.world.device
    norms = torch._foreach_norm([gradient.float() for gradient, _ in held])
    weights = torch.tensor([1.0 / count for _, count in held], dtype=torch.float64, device=device)
    squares = torch.stack(list(norms)).double().square() * weights if held else weights
    total = squares.sum()
    if mesh.grid is not None:
        total = total.to(mesh.world.device)
        dist.all_reduce(total)
    return math.sqrt(total.item())


def clip(parameters: Iterable[nn.Parameter], most: float, mesh: Mesh) -> float:
    """Scale the gradients so that their norm is at most ``most``; returns the norm before that."""
    parameters = list(parameters)
    found = norm(parameters, mesh)
    factor = most / (found + 1e-6)
    if factor < 1.0:
        torch._foreach_mul_([local(p.grad) for p in parameters if p.grad is not None], factor)
    return found
