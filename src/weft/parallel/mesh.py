"""The mesh: the processes of a plan in a grid, and the groups along its lines."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    parameters, whole or in parts). With experts spread, ``ep`` too (neighbours on ``data`` that hold all
    experts together) and ``experts`` (ranks of ``stage`` that hold the same ones).
    """

    plan: Plan
    world: World
    grid: DeviceMesh | None
    lines: dict[str, DeviceMesh] = field(default_factory=dict)

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
        lines = {name: grid[name] for name in SIZES}
        # Every rank must make the flattened lines, and in the same order.
        lines |= {name: grid[parts]._flatten(name) for name, parts in _FLAT.items()}
        if plan.ep > 1:
            copies = plan.data_ranks // plan.ep
            spread = grid._flatten("world")._unflatten(
                0, (plan.pp, copies, plan.ep, plan.cp, plan.tp), _SPREAD
            )
            same = spread["expert_copies", "expert_cp", "expert_tp"]
            lines |= {"ep": spread["ep"], "experts": same._flatten("experts")}
        return cls(plan, world, grid, lines)

    def line(self, name: str) -> DeviceMesh:
        """The sub-mesh of this rank along ``name``; only for a world of several."""
        return self.lines[name]

    def group(self, name: str) -> dist.ProcessGroup | None:
        """The process group along ``name``, None where this rank is alone on it."""
        if self.grid is None or self.size(name) == 1:
            return None
        return self.line(name).get_group()

    def size(self, name: str) -> int:
        """Ranks along ``name``."""
        return self.lines[name].size() if name in self.lines else 1

    def coordinate(self, name: str) -> int:
        """This rank's place along ``name``."""
        return self.lines[name].get_local_rank() if name in self.lines else 0


_FLAT = {
    "data": ("dp", "fsdp"),
    "sum": ("dp", "fsdp", "cp"),
    "shard": ("fsdp", "cp"),
    "stage": ("dp", "fsdp", "cp", "tp"),
}
_SPREAD = ("stages", "expert_copies", "ep", "expert_cp", "expert_tp")
"""The same ranks in a grid that has ep; its other dimensions need names of their own."""
