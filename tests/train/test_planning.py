"""From a run file to the planner and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from weft.core.errors import ConfigError
from weft.models.presets import Size
from weft.parallel.plan import Plan
from weft.train import planning
from weft.train.config import DataSection, ModelSection, OptimizerSection, TrainRun, TrainSection

CONFIG = Size(4, 128, 32).config(512, 64)
RUN = TrainRun(
    data=DataSection(sequence_length=64),
    model=ModelSection(hidden_size=128),
    train=TrainSection(steps=10, batch_tokens=1024, arithmetic="fp32"),
    optimizer=OptimizerSection(name="adamw"),
)


@pytest.fixture(autouse=True)
def _no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_run_is_a_job() -> None:
    job = planning.job_of(RUN, CONFIG, "fp32")
    assert (job.rows, job.length, job.optimizer, job.steps) == (16, 64, "adamw", 10)


def test_the_shape_follows_from_the_run_file() -> None:
    assert planning.shape_of(RUN, vocabulary=512).hidden_size == 128
    with pytest.raises(ConfigError, match="give --vocab"):
        planning.shape_of(RUN)
    unsized = dataclasses.replace(RUN, model=ModelSection())
    with pytest.raises(ConfigError, match="hidden_size is not set"):
        planning.shape_of(unsized, vocabulary=512)


def test_automatic_sets_a_plan_that_runs() -> None:
    chosen = planning.automatic(RUN, 2, CONFIG)
    assert chosen.parallel.size == 2
    assert chosen.train.micro_rows is not None
    chosen.parallel.check(CONFIG, rows=16, micro_rows=chosen.train.micro_rows, length=64)


def test_the_error_of_a_finished_run_is_said_and_kept(tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, parallel=Plan(dp=2))
    file = tmp_path / "errors.jsonl"
    line = planning.judged(run, CONFIG, "fp32", 0.5, 5e8, file)
    assert "foretold" in line and "dp=2" in line and "not calibrated" in line
    (entry,) = [json.loads(text) for text in file.read_text().splitlines()]
    assert entry["seconds"] == 0.5 and entry["bytes"] == 5e8 and entry["plan"] == "dp=2"
