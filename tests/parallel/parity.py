"""A small run under a plan: its losses, and the gradients of its first step put together again.

Run alone and under any plan it must give the same. Rows have ragged documents; the rows of the last data
rank of the first step carry no targets at all.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tests.parallel.ranks import Ranks
from torch.distributed.tensor import DTensor

from weft.data.batch import IGNORED, Batch
from weft.models import Decoder, DecoderConfig
from weft.parallel.mesh import Mesh
from weft.parallel.model import parallelise
from weft.parallel.plan import Plan
from weft.parallel.world import joined
from weft.train.config import OptimizerSection
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.schedule import factor
from weft.train.step import Step

ROWS, LENGTH, VOCABULARY = 8, 32, 64


@dataclass(frozen=True)
class Case:
    """What is trained; ``config`` overrides fields of its shape, ``backend`` is of torch.compile."""

    rate: float = 0.01
    steps: int = 6
    micro_rows: int = 2
    dtype: str = "float32"
    optimizer: str = "adamw"
    masked: bool = True
    backend: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    float8: bool = False


def decoder_config(case: Case) -> DecoderConfig:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    return DecoderConfig(**{**shape, **case.config})


def batch(step: int, masked: bool) -> Batch:
    """The global batch of a step: each token is the one before it plus 1 or 2, in documents of any length."""
    noise = np.random.default_rng((7, step))
    rows = noise.integers(0, VOCABULARY, (ROWS, LENGTH + 1))
    for t in range(1, LENGTH + 1):
        rows[:, t] = (rows[:, t - 1] + 1 + rows[:, t] % 2) % VOCABULARY
    start = np.zeros((ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        for cut in sorted(noise.integers(1, LENGTH, row % 4)):
            start[row, cut:] = cut
    targets = np.ascontiguousarray(rows[:, 1:])
    targets[0, LENGTH // 2 :] = IGNORED
    if masked and step == 0:
        targets[-2:] = IGNORED
    return Batch(np.ascontiguousarray(rows[:, :-1]), targets, start)


def _draw(model: Decoder) -> None:
    """Weights of which none is zero and no gradient is tiny beside the others: each can be compared."""
    noise = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name else 0.0
        torch.nn.init.normal_(parameter, mean, 0.2 if parameter.ndim > 1 else 0.1, generator=noise)


def train(plan: str, case: Case) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps, and this rank's gradients of the first, whole where they were cut."""
    layout = Plan.parse(plan)
    with joined(torch.device("cpu")) as world:
        mesh = Mesh.build(layout, world)
        whole = Decoder(decoder_config(case))
        whole.initialise(torch.Generator().manual_seed(0))
        _draw(whole)
        layout.check(whole.config, rows=ROWS, micro_rows=case.micro_rows, length=LENGTH)
        dtype = getattr(torch, case.dtype)
        model = parallelise(whole, layout, mesh, dtype, case.backend, float8=case.float8)
        section = OptimizerSection(name=case.optimizer, warmup_steps=3)  # type: ignore[arg-type]
        optimizer = Optimizer(model.module, section, case.rate, mesh.group("stage"))
        step = Step(model, Pretrain(), optimizer, 1.0, dtype)

        def own(index: int) -> list[Batch]:
            part = batch(index, case.masked).part(mesh.coordinate("data"), mesh.size("data"))
            edges = range(0, len(part.tokens), case.micro_rows)
            return [Batch(*(x[e : e + case.micro_rows] for x in vars(part).values())) for e in edges]

        micro = own(0)
        targets = model.count(sum(b.target_count for b in micro))
        model.accumulate(step.objective, micro, 1.0 / targets, dtype)
        gradients = {}
        for name, parameter in model.module.named_parameters():
            gradient = parameter.grad
            assert gradient is not None, f"{name} has no gradient"
            whole_gradient = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            gradients[name] = whole_gradient.detach().float().clone()
            parameter.grad = None
        losses = [step.run(own(i), factor(i, case.steps, section)).loss for i in range(case.steps)]
    return losses, gradients


def compare(ranks: Ranks, plan: str, case: Case, *, gradient: float = 1e-5, loss: float = 1e-4) -> None:
    """Every rank has the losses of one process, and its first gradients, relative to their norm."""
    expected, whole = train("", dataclasses.replace(case, backend=None))
    answers = ranks.run(train, plan, case)
    seen: dict[str, torch.Tensor] = {}
    for losses, gradients in answers:
        assert losses == pytest.approx(expected, rel=loss)
        for name, found in gradients.items():
            error = (found - whole[name]).norm() / whole[name].norm().clamp(min=1e-12)
            assert error < gradient, f"{name}: {error:.2e}"
        seen |= gradients
    assert seen.keys() == whole.keys()


def bf16(case: Case) -> Case:
    """The same case in bf16, which is compared at 1e-2."""
    return dataclasses.replace(case, dtype="bfloat16")
