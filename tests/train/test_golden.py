"""A golden loss curve: refactors of models, operations or optimisers must not move it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from weft.data.batch import Batch
from weft.models import Decoder, DecoderConfig
from weft.parallel.model import ParallelModel
from weft.train.config import OptimizerSection
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.schedule import factor
from weft.train.step import Step

GOLDEN = Path(__file__).parent / "golden.json"
STEPS = 40


def curve(name: str) -> list[float]:
    """Losses of a tiny run in fp32 on a made-up language: each token is the one before it plus 1 or 2."""
    section = OptimizerSection(name=name, warmup_steps=3)
    config = DecoderConfig(64, 32, 64, 2, 4, 2, 8)
    model = Decoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, section, 0.02)
    step = Step(ParallelModel.alone(model), Pretrain(), optimizer, 1.0, torch.float32)
    noise = np.random.Philox(key=7)
    losses = []
    for index in range(STEPS):
        rows = (noise.random_raw(4 * 49).reshape(4, 49) % 64).astype(np.int64)
        for t in range(1, 49):
            rows[:, t] = (rows[:, t - 1] + 1 + rows[:, t] % 2) % 64
        start = np.zeros((4, 48), np.int32)
        start[1, 20:] = 20
        batch = Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]), start)
        losses.append(step.run([batch], factor(index, STEPS, section)).loss)
    return losses


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_loss_curve_is_the_golden_one(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    assert curve(name) == pytest.approx(golden, rel=2e-3)
