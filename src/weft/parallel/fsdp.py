"""Fully sharded data parallel (ZeRO-3, arXiv:1910.02054) by PyTorch's FSDP2 (arXiv:2411.00284).

Weights, gradients and optimiser state of matrices are cut over the ``shard`` line (fsdp x cp); a block's
weights are gathered before it runs and its gradients are summed as they come. With dp > 1 whole groups of
shards are replicated (hybrid sharding). Norms and biases stay whole: they are a thousandth of the weights,
and their fp32 masters are what the native kernels read. Experts that are spread over ranks already are cut
further over the ranks that hold the same ones.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from weft.models import moe
from weft.parallel import expert
from weft.parallel.mesh import Mesh
from weft.parallel.plan import Plan

LINES = frozenset({"dp", "shard", "experts"})
"""Names of the mesh dimensions that FSDP2 sums gradients over."""


def apply(module: nn.Module, plan: Plan, mesh: Mesh, dtype: torch.dtype) -> None:
    """Shard the blocks of a decoder or stage, then what is around them; nothing without ``plan.fsdp``.

    Blocks gather their matrices in ``dtype`` (half the bytes in bf16) and sum gradients in fp32; the
    embedding and the output matrix are gathered in fp32, because their gradients are sums over many
    tokens. Stages of a pipeline stay gathered for a whole step: each micro-batch would gather them twice,
    and a backward pass that is split in two must find the weights that the forward pass used.
    """
    if plan.fsdp == 1:
        return
    grid = _grid(plan, mesh)
    offload = _offload(plan, mesh)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    whole = _whole(module, plan, mesh)
    for block in blocks(module):
        for stack in expert.spread(block, plan) if mesh.size("experts") > 1 else []:
            fully_shard(
                stack,
                mesh=mesh.line("experts"),
                mp_policy=policy,
                offload_policy=offload,
                reshard_after_forward=plan.pp == 1,
            )
        fully_shard(
            block,
            mesh=grid,
            mp_policy=policy,
            offload_policy=offload,
            ignored_params=whole,
            reshard_after_forward=plan.pp == 1,
        )
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(module, mesh=grid, mp_policy=plain, offload_policy=offload, ignored_params=whole)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            # The loss is divided by the targets of all ranks, so gradients are summed.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def last(module: nn.Module, is_last: bool) -> None:
    """Say whether the coming micro-batch is the step's last: replicas exchange their sums only then."""
    if isinstance(module, FSDPModule):
        module.set_requires_all_reduce(is_last)
        module.set_is_last_backward(is_last)


def forget(module: nn.Module) -> None:
    """Drop the weights that are gathered: they are old once the shards have been written to."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def sums(parameter: nn.Parameter) -> bool:
    """Whether FSDP2 sums the gradient of this parameter over the ranks."""
    return isinstance(parameter, DTensor) and bool(LINES & set(parameter.device_mesh.mesh_dim_names or ()))


def blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of a decoder or of a pipeline stage, in order."""
    held = module.get_submodule("blocks")
    return list(held.children())


def _whole(module: nn.Module, plan: Plan, mesh: Mesh) -> set[nn.Parameter]:
    """What is not cut: vectors, routers (which score in fp32), and experts that no other rank holds."""
    routers = {id(router.weight) for router in moe.routers(module).values()}
    whole = {p for p in module.parameters() if p.ndim < 2 or id(p) in routers}
    if mesh.size("experts") == 1:
        whole |= {p for stack in expert.spread(module, plan) for p in stack.parameters()}
    return whole


def _grid(plan: Plan, mesh: Mesh) -> DeviceMesh:
    assert mesh.grid is not None
    if plan.dp == 1:
        return mesh.line("shard")
    return DeviceMesh._concatenate([mesh.line("dp"), mesh.line("shard")])


def _offload(plan: Plan, mesh: Mesh) -> OffloadPolicy:
    if not plan.offload:
        return OffloadPolicy()
    return CPUOffloadPolicy(pin_memory=mesh.world.device.type == "cuda")
