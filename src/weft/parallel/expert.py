"""Expert parallel: ranks that read different rows hold different experts, and rows travel to them and back.

The expert parallelism of GShard (arXiv:2006.16668), without its capacity: no row is dropped, whatever the
load. Experts lie on the ``ep`` line of the mesh, contiguous ranges of them on its ranks. A row goes to its
expert by one all-to-all and its result comes back by another; the backward pass sends the gradients the
same ways in reverse. So the gradient of an expert already holds the rows of all ranks of the line, and is
summed only over the ranks that hold the same experts (the ``experts`` line of the mesh). Those include the
ranks of tp: each of them routes its own positions of a row.

Dimensions: M rows sorted by expert, X experts, E model width, R ranks of the line.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from weft.models.moe import Experts, stacks
from weft.models.moe import here as compute
from weft.ops.experts import Order
from weft.parallel.mesh import Mesh
from weft.parallel.plan import Plan


def apply(model: nn.Module, plan: Plan, mesh: Mesh) -> None:
    """Keep this rank's experts only, as DTensors cut along their first dimension, and let rows travel.

    Every rank must hold the same weights. Under fsdp, shard each of :func:`spread` over
    ``mesh.line("experts")`` before the block around it.
    """
    if plan.ep == 1:
        return
    line = mesh.line("ep")
    exchange = Exchange(line.get_group())
    for stack in stacks(model):
        for name, weight in list(stack.named_parameters(recurse=False)):
            stack.register_parameter(name, _own(weight, line))
        stack.place = exchange


def spread(model: nn.Module, plan: Plan) -> list[Experts]:
    """The stacks of experts that are cut over the ``ep`` line: none without expert parallelism."""
    return [] if plan.ep == 1 else list(stacks(model))


class Exchange:
    """Where experts compute when other ranks hold most of them (a :data:`weft.models.moe.Place`)."""

    def __init__(self, group: dist.ProcessGroup):
        self.group = group

    def __call__(self, rows_ME: Tensor, counts_X: Tensor, experts: Experts) -> Tensor:
        """[M, E] sorted by expert -> [M, E]; ``counts`` are this rank's rows for each expert of all."""
        sent = counts_X.view(self.group.size(), -1)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        there, here = sent.sum(1).tolist(), received.sum(1).tolist()
        rows = _AllToAll.apply(rows_ME, there, here, self.group)  # type: ignore[no-untyped-call]
        # They come by rank, and by expert within a rank; the experts want all ranks' rows together.
        numbers = torch.arange(sent.shape[1], device=sent.device).repeat(len(here))
        order = Order(numbers.repeat_interleave(received.flatten()).unsqueeze(1))
        done = compute(order.sort(rows), received.sum(0), experts)
        back: Tensor = _AllToAll.apply(  # type: ignore[no-untyped-call]
            order.unsort(done).squeeze(1), here, there, self.group
        )
        return back


class _AllToAll(torch.autograd.Function):
    """Rows to and from every rank of a group: splits by rank, in rows; the gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
        ctx.splits, ctx.group = (sent, received), group
        return _all_to_all(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        sent, received = ctx.splits
        return _all_to_all(grads[0], received, sent, ctx.group), None, None, None


def _all_to_all(x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    out = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
    return out


def _own(weight: Tensor, line: DeviceMesh) -> nn.Parameter:
    mine = weight.detach().chunk(line.size())[line.get_local_rank()].clone()
    return nn.Parameter(DTensor.from_local(mine, line, [Shard(0)], run_check=False))
