"""The rank in which a loss or gradient first stops being a number is found, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parallel.parity import LENGTH, ROWS, Case, batch, decoder_config
from tests.parallel.ranks import Ranks

from weft.core.errors import TrainingError
from weft.data.batch import Batch
from weft.models import Decoder
from weft.parallel.mesh import Mesh
from weft.parallel.model import parallelise
from weft.parallel.plan import Plan
from weft.parallel.world import joined
from weft.train.config import OptimizerSection
from weft.train.faults.inject import Injected, Injector
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.step import Step


def poisoned(plan: str, kind: str, rank: int, folder: str) -> tuple[str, tuple[int, ...], bool]:
    """(sentence, ranks, whether the weights stayed) of a step in which one rank makes no numbers."""
    from pathlib import Path

    layout, case = Plan.parse(plan), Case()
    with joined(torch.device("cpu")) as world:
        mesh = Mesh.build(layout, world)
        whole = Decoder(decoder_config(case))
        whole.initialise(torch.Generator().manual_seed(0))
        model = parallelise(whole, layout, mesh, torch.float32)
        layout.check(whole.config, rows=ROWS, micro_rows=2, length=LENGTH)
        optimizer = Optimizer(model.module, OptimizerSection(name="adamw"), 0.01, mesh.group("stage"))
        step = Step(model, Pretrain(), optimizer, 1.0, torch.float32)
        injected: list[Any] = [Injected(kind, rank)] if world.rank == rank else []
        Injector(injected, model.parts[0], Path(folder)).begin(0)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        own = batch(0, False).part(mesh.coordinate("data"), mesh.size("data"))
        half = len(own.tokens) // 2
        micro = [Batch(*(x[e : e + half] for x in vars(own).values())) for e in (0, half)]
        try:
            step.run(micro, 1.0)
        except TrainingError as error:
            same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            return str(error), error.ranks, same
    raise AssertionError("the step did not fail")


@pytest.mark.parametrize("kind", ["nan", "nan-gradient"])
@pytest.mark.parametrize(("plan", "rank"), [("dp=2", 1), ("fsdp=2", 0), ("pp=2", 0), ("pp=2", 1)])
def test_the_rank_is_named_and_no_weight_is_touched(
    two: Ranks, tmp_path: object, plan: str, kind: str, rank: int
) -> None:
    answers = two.run(poisoned, plan, kind, rank, str(tmp_path))
    for sentence, ranks, same in answers:
        assert ranks == (rank,) and same
        assert f"first in rank {rank};" in sentence and "nan" in sentence
