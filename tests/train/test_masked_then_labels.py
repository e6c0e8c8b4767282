"""A recurrent network learns from hidden tokens of labelled folders first, then from the labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.task_runs import lines, tagged, trained

from weft.checkpoint.huggingface import load_any
from weft.core import config
from weft.core.errors import ConfigError
from weft.models.baseline import Baseline
from weft.train import session
from weft.train.config import TrainRun

SMALL = (
    "data.sequence_length=64", "train.batch_tokens=512", "train.micro_rows=4", "train.validate_rows=4",
    "train.device=cpu", "optimizer.warmup_steps=1",
)  # fmt: skip
MASKED = (
    "objective.name=masked", "model.architecture=WeftLstmForMaskedLM", "model.hidden_size=32",
    "model.bigram_buckets=64", "model.bigram_size=8",
)  # fmt: skip


def run(folder: Path, *changes: str) -> Path:
    session.train(config.load(TrainRun, None, [*SMALL, *changes]), folder, say=lambda text: None)
    return folder


def test_labels_start_from_what_hidden_tokens_taught(tmp_path: Path) -> None:
    file = lines(tmp_path / "tagged.jsonl", tagged(120))
    plain = trained(tmp_path, file, "tag", steps=1)
    data = f"data.path={tmp_path / 'data'}"
    begun = run(tmp_path / "masked", data, *MASKED, "train.steps=30", "optimizer.learning_rate=0.01")
    before = load_any(begun)
    assert isinstance(before, Baseline) and before.config.head == "masked" and before.bigrams is not None
    # A rate of next to nothing leaves what was taken over as it was.
    tag = ("objective.name=tag", "model.architecture=WeftLstmForTokenClassification", f"model.start={begun}")
    after = load_any(
        run(tmp_path / "tag", data, *tag, "model.crf=true", "train.steps=1", "optimizer.learning_rate=1e-9")
    )
    assert isinstance(after, Baseline) and after.crf is not None and after.config.bigram_buckets == 64
    for name in ("embedding.weight", "bigrams.weight", "rnn.weight_hh_l0_reverse"):
        torch.testing.assert_close(after.get_parameter(name), before.get_parameter(name), atol=1e-5, rtol=0)
    assert "PER" in " ".join(after.config.labels) and load_any(plain).config.labels == after.config.labels


def test_several_folders_are_hidden_in_one_run(tmp_path: Path) -> None:
    file = lines(tmp_path / "tagged.jsonl", tagged(60))
    trained(tmp_path, file, "tag", steps=1)
    data = tmp_path / "data"
    run(
        tmp_path / "m",
        f"data.path={data}",
        f'mixture.sources=["a = {data}", "b = {data}"]',
        *MASKED,
        "train.steps=3",
    )
    assert (tmp_path / "m" / "model" / "config.json").exists()


def test_pairs_are_not_of_transformers(tmp_path: Path) -> None:
    file = lines(tmp_path / "tagged.jsonl", tagged(40))
    with pytest.raises(ConfigError, match="bigram_buckets is of recurrent networks and CNNs"):
        trained(tmp_path, file, "tag", "model.bigram_buckets=64", steps=1)
