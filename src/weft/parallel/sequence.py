"""Collectives of tensor parallelism, as functions with gradients (Megatron-LM, arXiv:1909.08053).

Between blocks each rank holds its part of the positions of a row (sequence parallel, arXiv:2205.05198).
Gathering them forward is a reduce-scatter backward, and the other way round, so a block costs what the
plain all-reduces would, and norms and residuals are held once.

Dimensions: B batch rows, S positions of a row on this rank, T = S * K positions of a row, K ranks,
E anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

_OPS = torch.ops._c10d_functional
"""The functional collectives: torch.compile traces them, unlike calls on a process group."""


@dataclass(frozen=True)
class Line:
    """The ranks along one line of the mesh: the name of their group, how many, and this one's place."""

    name: str
    size: int
    rank: int

    @classmethod
    def of(cls, mesh: DeviceMesh) -> Line:
        """The line of a mesh of one dimension."""
        return cls(mesh.get_group().group_name, mesh.size(), mesh.get_local_rank())


def all_gather(x: Tensor, name: str, size: int) -> Tensor:
    """[n, ...] -> [K * n, ...], the ranks' tensors one after another; no gradient."""
    out: Tensor = _OPS.wait_tensor(_OPS.all_gather_into_tensor(x.contiguous(), size, name))
    return out


def reduce_scatter(x: Tensor, name: str, size: int) -> Tensor:
    """[K * n, ...] -> [n, ...]: this rank's part of the sum over the ranks; no gradient."""
    out: Tensor = _OPS.wait_tensor(_OPS.reduce_scatter_tensor(x.contiguous(), "sum", size, name))
    return out


def all_reduce(x: Tensor, how: str, name: str) -> Tensor:
    """The ``sum`` or ``max`` over the ranks; no gradient."""
    out: Tensor = _OPS.wait_tensor(_OPS.all_reduce(x.contiguous(), how, name))
    return out


def gather_sequence(x_BSE: Tensor, line: Line) -> Tensor:
    """[B, S, E] -> [B, T, E]; backward sums the ranks' gradients and gives each its positions."""
    out: Tensor = _Gather.apply(x_BSE, line.name, line.size)  # type: ignore[no-untyped-call]
    return out


def scatter_sequence(x_BTE: Tensor, line: Line) -> Tensor:
    """[B, T, E] -> [B, S, E]: this rank's positions of the sum over the ranks; backward gathers."""
    out: Tensor = _Scatter.apply(x_BTE, line.name, line.size)  # type: ignore[no-untyped-call]
    return out


def gather_last(x: Tensor, line: Line) -> Tensor:
    """[..., V / K] -> [..., V] where every rank then computes the same; backward takes its own part."""
    out: Tensor = _GatherLast.apply(x, line.name, line.size, line.rank)  # type: ignore[no-untyped-call]
    return out


def _join(x_BSE: Tensor, name: str, size: int) -> Tensor:
    B, S, *rest = x_BSE.shape
    whole = all_gather(x_BSE, name, size)
    return whole.view(size, B, S, *rest).transpose(0, 1).reshape(B, size * S, *rest)


def _share(x_BTE: Tensor, name: str, size: int) -> Tensor:
    B, T, *rest = x_BTE.shape
    parts = x_BTE.reshape(B, size, T // size, *rest).transpose(0, 1)
    return reduce_scatter(parts.reshape(size * B, T // size, *rest), name, size)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, size: int) -> Tensor:
        ctx.name, ctx.size = name, size
        return _join(x, name, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _share(grads[0], ctx.name, ctx.size), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, size: int) -> Tensor:
        ctx.name, ctx.size = name, size
        return _share(x, name, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _join(grads[0], ctx.name, ctx.size), None, None


class _GatherLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, size: int, rank: int) -> Tensor:
        ctx.size, ctx.rank = size, rank
        whole = all_gather(x.unsqueeze(0), name, size)
        return whole.movedim(0, -2).flatten(-2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0].chunk(ctx.size, dim=-1)[ctx.rank].contiguous(), None, None, None
