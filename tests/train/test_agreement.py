"""Two readings of a text under dropout shall agree (R-Drop)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_objectives import learnt_and_resumed, made
from test_session import losses, train
from tests.labelled_sets import data
from torch import Tensor, nn

from weft.core import config
from weft.core.errors import ConfigError
from weft.data.batch import IGNORED
from weft.train.config import TrainRun
from weft.train.objectives.classify import Classify, divergence


class Drawn(nn.Module):
    """Gives the scores of a test in the place of states, the next ones at every call."""

    def __init__(self, scores: list[Tensor]):
        super().__init__()
        self.scores = scores
        self.readings = 0

    def forward(self, tokens: Tensor, context: Any, dtype: torch.dtype) -> Tensor:
        self.readings += 1
        return self.scores[self.readings - 1]

    def classify(self, hidden_BTE: Tensor, context: Any, first_N: Tensor) -> Tensor:
        return hidden_BTE.flatten(0, 1)[first_N]


class Rows:
    tokens, context = torch.zeros(2, 3, dtype=torch.int64), None
    targets = torch.tensor([[1, IGNORED, 0], [IGNORED, IGNORED, 2]])


@pytest.fixture
def scores() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 3, generator=draw) for _ in range(2)]


def test_the_loss_is_that_of_the_paper(scores: list[Tensor]) -> None:
    found = Classify(agreement=0.7).loss(Drawn(scores), Rows(), 0.5, torch.float32)
    keep = Rows.targets.flatten() != IGNORED
    p, q = (F.log_softmax(one.flatten(0, 1)[keep], dim=1) for one in scores)
    targets = Rows.targets.flatten()[keep]
    wrong = F.nll_loss(p, targets, reduction="sum") + F.nll_loss(q, targets, reduction="sum")
    apart = sum(F.kl_div(a, b, log_target=True, reduction="sum") for a, b in ((p, q), (q, p)))
    # The paper's loss with alpha = 1.4, halved.
    torch.testing.assert_close(found, 0.5 * (wrong + 1.4 * apart / 2) / 2)
    assert divergence(scores[0][0], scores[0][0]) == 0.0


def test_validation_reads_once_and_measures_entropy_alone(scores: list[Tensor]) -> None:
    plain = Classify().loss(Drawn(scores).eval(), Rows(), 1.0, torch.float32)
    model = Drawn(scores).eval()
    assert Classify(agreement=0.7).loss(model, Rows(), 1.0, torch.float32) == plain
    assert model.readings == 1


def test_rows_without_a_label_have_no_loss(scores: list[Tensor]) -> None:
    class Bare(Rows):
        targets = torch.full((2, 3), IGNORED)

    assert Classify(agreement=0.7).loss(Drawn(scores), Bare(), 1.0, torch.float32) == 0.0


def test_it_is_learnt_and_resume_is_exact(tmp_path: Path) -> None:
    run = made(data("classify", tmp_path), "classify", 12, "objective.agreement=0.5")
    learnt_and_resumed(run, tmp_path)


def test_without_dropout_both_readings_are_one(tmp_path: Path) -> None:
    folder = data("classify", tmp_path)
    for name, value in (("plain", "0.0"), ("twice", "0.5")):
        settings = (f"objective.agreement={value}", "model.dropout=0.0")
        train(made(folder, "classify", 4, *settings), tmp_path / name)
    np.testing.assert_allclose(losses(tmp_path / "twice"), losses(tmp_path / "plain"), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["objective.name=classify", "objective.agreement=-0.1"], "must be at least 0"),
        (["objective.name=tag", "objective.agreement=0.1"], "is for classify, not for tag"),
        (["objective.name=classify", "objective.agreement=0.1", "parallel.pp=2"], "alone or with dp alone"),
    ],
)
def test_settings_that_make_no_sense(changes: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.agreement.*{sentence}"):
        config.load(TrainRun, None, changes)
