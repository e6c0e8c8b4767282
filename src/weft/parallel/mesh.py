"""The mesh: the processes of a plan in a grid, and the groups along its lines."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from weft.core.errors import ConfigError
from weft.parallel.plan import SIZES, Plan
from weft.parallel.world import World


@dataclass(frozen=True)
class Mesh:
    """A plan laid over the processes of a world; ``grid`` is None for one process.

    Names of lines: those of :data:`weft.parallel.plan.SIZES`, and ``data`` (dp x fsdp: ranks that read
    different rows), ``sum`` (dp x fsdp x cp: ranks whose gradients add up), ``shard`` (fsdp x cp: ranks
    that share one copy of the weights under fsdp), ``stage`` (all but pp: ranks that hold the same
    parameters, whole or in parts).
    """

    plan: Plan
    world: World
    grid: DeviceMesh | None

    @classmethod
    def build(cls, plan: Plan, world: World) -> Mesh:
        """ConfigError when the plan asks for another number of processes than there are."""
        if plan.size != world.size:
            raise ConfigError(
                f"The plan {plan} is for {plan.size} processes and {world.size} were started; start as many "
                f"(weft launch, or torchrun --nproc-per-node {plan.size}), or change --parallel."
            )
        if world.alone:
            return cls(plan, world, None)
        sizes = tuple(getattr(plan, name) for name in SIZES)
        grid = init_device_mesh(world.device.type, sizes, mesh_dim_names=SIZES)
        # Every rank must make the flattened lines, and in the same order.
        for name, parts in _FLAT.items():
            grid[parts]._flatten(name)
        return cls(plan, world, grid)

    def line(self, name: str) -> DeviceMesh:
        """The sub-mesh of this rank along ``name``; only for a world of several."""
        assert self.grid is not None
        return self.grid[name]

    def group(self, name: str) -> dist.ProcessGroup | None:
        """The process group along ``name``, None where this rank is alone on it."""
        if self.grid is None or self.size(name) == 1:
            return None
        return self.line(name).get_group()

    def size(self, name: str) -> int:
        """Ranks along ``name``."""
        return 1 if self.grid is None else self.line(name).size()

    def coordinate(self, name: str) -> int:
        """This rank's place along ``name``."""
        return 0 if self.grid is None else self.line(name).get_local_rank()


_FLAT = {
    "data": ("dp", "fsdp"),
    "sum": ("dp", "fsdp", "cp"),
    "shard": ("fsdp", "cp"),
    "stage": ("dp", "fsdp", "cp", "tp"),
}
