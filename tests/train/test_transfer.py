"""muP: what a step does to activations does not depend on the width."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weft.data.batch import Batch
from weft.models import Decoder, DecoderConfig
from weft.parallel.model import ParallelModel
from weft.parallel.rows import packed
from weft.train.config import OptimizerSection
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.step import Step
from weft.train.transfer import rescale


def change(width: int, base: int | None, name: str, tied: bool) -> float:
    """Root mean square of what five steps at one rate change in the scores of a decoder of this width."""
    torch.manual_seed(0)
    config = DecoderConfig(64, width, 2 * width, 2, width // 16, width // 16, 16, tie_word_embeddings=tied)
    model = Decoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    if base is not None:
        rescale(model, width / base)
    rows = np.random.default_rng(0).integers(0, 64, (4, 33))
    start = np.zeros((4, 32), np.int32)
    batch = Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]), start)
    fixed = packed(batch, torch.device("cpu"), None)
    section = OptimizerSection(name=name, base_width=base)  # type: ignore[arg-type]
    step = Step(ParallelModel.alone(model), Pretrain(), Optimizer(model, section, 0.003), 1e9, torch.float32)
    with torch.no_grad():
        before = model.logits(model(fixed.tokens, fixed.context))
    for _ in range(5):
        step.run([batch], 1.0)
    with torch.no_grad():
        after = model.logits(model(fixed.tokens, fixed.context))
    return float((after - before).square().mean().sqrt())


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
def test_scores_change_alike_at_every_width_with_mup_only(name: str, tied: bool) -> None:
    with_mup = [change(width, 32, name, tied) for width in (32, 128, 512)]
    without = [change(width, None, name, tied) for width in (32, 128, 512)]
    assert max(with_mup) / min(with_mup) < 2.0
    assert without[-1] / without[0] > 2 * with_mup[-1] / with_mup[0]


def test_at_the_base_width_nothing_changes() -> None:
    assert change(64, 64, "adamw", True) == change(64, None, "adamw", True)
