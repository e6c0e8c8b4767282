"""Tuning by measurement: what is chosen, what is written, what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from weft.cli.main import main
from weft.core import config
from weft.recipes.tune.noise import batch_tokens, gradient_norms
from weft.recipes.tune.workbench import Workbench
from weft.train.config import TrainRun

SETTINGS = (
    "data.sequence_length=64",
    "model.hidden_size=32",
    "model.head_dim=16",
    "model.num_hidden_layers=2",
)


@pytest.fixture(scope="module")
def bench(data_folder: Path) -> Workbench:
    return Workbench.open(config.load(TrainRun, None, [f"data.path={data_folder}", *SETTINGS]))


def test_gradients_of_parts_average_to_the_whole(bench: Workbench) -> None:
    model = bench.model()
    for parameter in model.parameters():
        parameter.data.add_(0.01)
    parts = bench.batches(0, 8, 1)
    small, large, few, many = gradient_norms(bench, model, parts)
    alone = {name: p.grad.clone() for name, p in model.module.named_parameters()}
    assert small > large > 0
    assert many == pytest.approx(8 * few)
    model.module.zero_grad()
    model.accumulate(bench.objective, bench.batches(0, 8, 8), 1 / many, bench.arithmetic.dtype)
    for name, parameter in model.module.named_parameters():
        assert (parameter.grad - alone[name]).norm() <= 2e-2 * alone[name].norm() + 1e-6


def test_the_batch_is_whole_rows_near_the_noise() -> None:
    assert batch_tokens(5000, 64) == 4096
    assert batch_tokens(3.0, 64) == 64


def test_the_rate_is_written_into_the_run_file(data_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'[data]\npath = "{data_folder}"\nsequence_length = 64\n\n[model]\nhidden_size = 64\n')
    report = tmp_path / "lr.html"
    arguments = ["tune", "lr", str(file), "model.head_dim=16", "model.num_hidden_layers=1", "--width", "32"]
    arguments += ["--test-steps", "30", "--run-steps", "8", "--report", str(report), "--json", "-"]
    done = CliRunner().invoke(main, [*arguments, "train.batch_tokens=256"])
    assert done.exit_code == 0, done.output
    written = tomllib.loads(file.read_text())["optimizer"]
    assert written["base_width"] == 32 and 1e-6 < written["learning_rate"] <= 2.0
    record = json.loads(done.stdout[done.stdout.index("{") :])
    losses = record["runs"]
    assert len(losses) >= 4
    assert losses[f"{written['learning_rate']:g}"] == min(losses.values())
    text = report.read_text(encoding="utf-8")
    assert "学习率" in text and "<svg" in text


def test_the_batch_is_measured(data_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "batch.html"
    arguments = ["tune", "batch", f"data.path={data_folder}", *SETTINGS, "--steps", "6", "--most-rows", "4"]
    done = CliRunner().invoke(main, [*arguments, "--report", str(report), "--json", "-"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout[done.stdout.index("{") :])
    assert [trial["rows"] for trial in record["trials"]] == [1, 2, 4]
    assert record["train.batch_tokens"] % 64 == 0 and record["noise_scale"] > 0
    assert "临界批大小" in report.read_text(encoding="utf-8")


def test_a_model_without_a_size_is_refused(data_folder: Path) -> None:
    done = CliRunner().invoke(main, ["tune", "lr", f"data.path={data_folder}"])
    assert done.exit_code == 2
    assert "model.hidden_size is not set; tuning needs to know the model" in done.output
