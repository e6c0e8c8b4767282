"""The shapes that a run may take, for every architecture that can be trained."""

from __future__ import annotations

import pytest

from weft.core import config
from weft.models.families import FAMILIES
from weft.models.presets import LADDER
from weft.train import dial
from weft.train.config import TrainRun


@pytest.mark.parametrize("architecture", list(FAMILIES))
def test_every_architecture_has_its_ladder_and_its_fixed_size(architecture: str) -> None:
    run = config.load(TrainRun, None, [f"model.architecture={architecture}"])
    assert len(dial.sizes(run, 512)) == len(LADDER)
    fixed = config.load(TrainRun, None, [f"model.architecture={architecture}", "model.hidden_size=64"])
    (shape,) = dial.sizes(fixed, 512)
    assert (shape.hidden_size, shape.architecture) == (64, architecture)
