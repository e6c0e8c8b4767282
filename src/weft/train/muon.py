"""Muon (Jordan et al. 2024) over any number of processes: the update of one process, computed once.

The momentum of a matrix is orthogonalised (:mod:`weft.ops.orthogonal`) and scaled to the root mean square of
AdamW's update (arXiv:2502.16982). Where bf16 is in hardware, this is ``torch.optim.Muon`` to the last bit in
one process. Of matrices that several ranks hold, whole or in shards, each is put together, orthogonalised by
one of them and sent to the others, so the work is shared out instead of repeated. A parameter of three
dimensions is a stack of matrices (experts); where a rank holds whole ones it does its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from weft.ops.orthogonal import orthogonalise


class Muon(torch.optim.Optimizer):
    """See the module. ``group``: the ranks that hold the same matrices in the same order, None for one."""

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        momentum: float,
        group: dist.ProcessGroup | None = None,
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(parameters, defaults)
        self._group = group

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for settings in self.param_groups:
            held = [p for p in settings["params"] if p.grad is not None]
            for parameter, owner in zip(held, self._owners(held), strict=True):
                update = self._orthogonal(parameter, settings["momentum"], owner)
                rows, columns = parameter.shape[-2:]
                scale = settings["lr"] * 0.2 * math.sqrt(max(rows, columns))
                weights = _local(parameter)
                weights.mul_(1 - settings["lr"] * settings["weight_decay"])
                weights.add_(update, alpha=-scale)

    def _orthogonal(self, parameter: Tensor, momentum: float, owner: int) -> Tensor:
        """This rank's part of the orthogonalised update."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        _local(buffer).lerp_(_local(gradient), 1 - momentum)
        update = _local(gradient).lerp(_local(buffer), momentum)
        if self._group is None or _whole_matrices(parameter):
            return orthogonalise(update)
        return self._shared(parameter, update, owner)

    def _shared(self, parameter: Tensor, update: Tensor, owner: int) -> Tensor:
        group = self._group
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            update = DTensor.from_local(
                update, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
            ).full_tensor()
        if dist.get_rank(group) == owner:
            done = orthogonalise(update).contiguous()
        else:
            done = torch.empty(update.shape, dtype=torch.bfloat16, device=update.device)
        dist.broadcast(done, group=group, group_src=owner)
        if not isinstance(parameter, DTensor):
            return done
        everywhere = DTensor.from_local(done, mesh, [Replicate()] * mesh.ndim, run_check=False)
        return everywhere.redistribute(mesh, placements).to_local()

    def _owners(self, parameters: list[Tensor]) -> list[int]:
        """Who orthogonalises each: the heaviest first, each to the rank with the least work so far."""
        if self._group is None:
            return [0] * len(parameters)
        work = [0.0] * dist.get_world_size(self._group)
        owners = [0] * len(parameters)
        costs = [p.numel() * min(p.shape[-2:]) for p in parameters]
        for index in sorted(range(len(parameters)), key=lambda i: -costs[i]):
            owners[index] = min(range(len(work)), key=work.__getitem__)
            work[owners[index]] += costs[index]
        return owners


def _local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def _whole_matrices(parameter: Tensor) -> bool:
    """Whether this rank holds whole matrices of a stack that is spread by its first dimension only."""
    if parameter.ndim != 3 or not isinstance(parameter, DTensor):
        return False
    # A cut of a cut is no Shard to torch, so it is asked what it is not.
    return all(p.is_replicate() or getattr(p, "dim", None) == 0 for p in parameter.placements)
