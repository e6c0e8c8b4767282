"""The real parallel model traced: fake tensors, a fake process group, any number of processes.

What :mod:`.activations` and :mod:`.estimate` say of a layout by formula is here seen: the decoder is
built and parallelised exactly as for training, as one rank of as many processes as the plan has, and one
micro-batch runs forward and backward through each of the rank's pipeline stages. Nothing is computed and
nothing is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from weft.core.errors import ResourceError
from weft.data.batch import Batch
from weft.models.decoder import Decoder, through
from weft.ops.kernels import shapes_only
from weft.ops.local import local as local_part
from weft.parallel.mesh import Mesh
from weft.parallel.model import ParallelModel, parallelise
from weft.parallel.planner.local import Local
from weft.parallel.planner.trace import DTYPES, Memory
from weft.parallel.rows import Rows
from weft.parallel.world import World


@dataclass(frozen=True)
class Seen:
    """Of one micro-batch through one stage without its loss: bytes ``kept`` for the backward pass, the
    ``peak`` of all that is alive beside weights; ``collectives``: calls by name."""

    stage: int
    kept: int
    peak: int
    collectives: dict[str, int]


def witness(local: Local, rank: int = 0, *, fused: bool = True) -> list[Seen]:
    """What pipeline rank ``rank`` sees, one entry a stage of it.

    ResourceError inside a running distributed program, whose process group cannot be replaced, and for
    layouts that PyTorch cannot make on fake tensors (replicas of shards; long pipelines with tied ends).
    """
    plan = local.plan
    ranks_of_stage = plan.size // plan.pp
    with _company(rank * ranks_of_stage, plan.size) as world:
        mesh = Mesh.build(plan, world)
        try:
            return _stages(local, mesh, fused)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ResourceError(f"The layout {plan} cannot be traced on fake tensors ({error}).") from error


def _stages(local: Local, mesh: Mesh, fused: bool) -> list[Seen]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, shapes_only(fused, fused):
        model = parallelise(Decoder(local.config), local.plan, mesh, DTYPES[local.job.dtype])
    rows = _rows(local, model)
    stages: dict[int, nn.Module] = {0: model.module}
    if model.pipeline is not None:
        stages = dict(model.pipeline.stages)
    with mode, shapes_only(fused, fused), torch.enable_grad():
        return [_through(local, number, stage, rows) for number, stage in stages.items()]


@contextlib.contextmanager
def _company(rank: int, size: int) -> Iterator[World]:
    if dist.is_initialized():
        raise ResourceError("A layout cannot be traced inside a running distributed program; use weft plan.")
    world = World(rank, size, rank, size, torch.device("cpu"))
    if size == 1:
        yield world
        return
    dist.init_process_group("fake", rank=rank, world_size=size, store=HashStore())
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _rows(local: Local, model: ParallelModel) -> Rows:
    """Real numbers: what each rank of a ring may skip depends on them, and they are small."""
    tokens = np.zeros((local.micro_rows, local.job.length), np.int64)
    rows: Rows = model.rows(Batch(tokens, tokens, np.zeros(tokens.shape, np.int32)))
    return rows


def _through(local: Local, number: int, stage: Any, rows: Rows) -> Seen:
    memory = Memory()
    for parameter in stage.parameters():
        memory.forget(local_part(parameter))
    with memory:
        out = _forward(local, number, stage, rows)
        kept = memory.alive
        handles: list[Any] = []
        for parameter in stage.parameters():
            hook: Any = parameter.register_post_accumulate_grad_hook
            handles.append(hook(lambda p: memory.forget(local_part(p.grad))))
        out.backward(torch.empty_like(out))  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    found = {name: count for name, count in memory.operations.items() if _is_collective(name)}
    return Seen(number, kept, memory.peak, found)


def _forward(local: Local, number: int, stage: Any, rows: Rows) -> Tensor:
    dtype = DTYPES[local.job.dtype]
    if local.plan.pp == 1:
        out: Tensor = stage(rows.tokens, rows.context, dtype)
        return out
    if number == 0:
        x = stage.embedding(rows.tokens).to(dtype)
    else:
        shape = (local.micro_rows, local.n // local.micro_rows, local.config.hidden_size)
        x = torch.empty(shape, dtype=dtype, requires_grad=True)
    x = through(stage.blocks.values(), x, rows.tokens, stage.inverse_frequencies, rows.context)
    hidden: Tensor = stage.norm(x) if stage.last else x
    return hidden


_COLLECTIVES = ("allgather_base", "all_gather_into", "reduce_scatter", "all_reduce", "alltoall", "send")


def _is_collective(name: str) -> bool:
    return any(part in name for part in _COLLECTIVES)
