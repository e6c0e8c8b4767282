"""A recurrent network learns from hidden tokens of labelled folders first, then from the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.task_runs import lines, tagged, trained

import weft
from weft.checkpoint.huggingface import load_any
from weft.core import config
from weft.core.errors import ConfigError
from weft.models.baseline import Baseline
from weft.tokenizer import Tokenizer
from weft.tokenizer.special import TURN_END, TURN_START
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


def roles(count: int) -> list[dict[str, Any]]:
    """The same words, whose roles only the predicate tells apart."""
    found = []
    for number in range(count):
        one, two = ("Anna", "Peter", "Maria")[number % 3], ("Oscar", "Rome")[number % 2]
        text = f"{one} saw {two} and {two} met {one} in {number % 7}"
        for word in ("saw", "met"):
            begin = text.index(word)
            agent = text.index(one) if word == "saw" else text.index(two, text.index("and"))
            span = {"start": agent, "end": agent + len(one if word == "saw" else two), "label": "ARG0"}
            found.append(
                {"text": text, "predicate": {"start": begin, "end": begin + len(word)}, "roles": [span]}
            )
    return found


def test_roles_are_labelled_by_a_network_that_is_told_of_the_predicate(tmp_path: Path) -> None:
    file = lines(tmp_path / "roles.jsonl", roles(60))
    plain = trained(tmp_path / "plain", file, "tag", steps=1)
    assert config_of(plain).get("predicate_markers") is None, "a Transformer has its markers and attention"
    data = f"data.path={tmp_path / 'plain' / 'data'}"
    begun = run(tmp_path / "masked", data, *MASKED, "train.steps=3")
    tag = (data, "objective.name=tag", "model.architecture=WeftLstmForTokenClassification")
    told = run(
        tmp_path / "told", *tag, f"model.start={begun}", "train.steps=60", "optimizer.learning_rate=0.01"
    )
    markers = config_of(told)["predicate_markers"]
    assert [Tokenizer.load(told / "model").token_id(name) for name in (TURN_START, TURN_END)] == markers
    small = ("model.hidden_size=32", "model.predicate=false", "train.steps=1")
    without = run(tmp_path / "without", *tag, *small)
    assert "predicate_markers" not in config_of(without)
    model = weft.load(told)
    text = "Anna saw Rome and Rome met Anna in 2"
    found = [model.label_roles(text, word) for word in ("saw", "met")]
    assert [[span.start for span in one] for one in found] == [[0], [18]]


def test_a_predicate_needs_roles_and_a_network_that_can_be_told(tmp_path: Path) -> None:
    file = lines(tmp_path / "tagged.jsonl", tagged(40))
    with pytest.raises(ConfigError, match=r"model\.predicate is of recurrent networks and CNNs, not of a"):
        trained(tmp_path / "a", file, "tag", "model.predicate=true", steps=1)
    made = (f"data.path={tmp_path / 'a' / 'data'}", "objective.name=tag", "model.hidden_size=32")
    lstm = "model.architecture=WeftLstmForTokenClassification"
    with pytest.raises(ConfigError, match="or make such data with weft data supervised"):
        run(tmp_path / "b", *made, "model.predicate=true", lstm, "train.steps=1")


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model" / "config.json").read_text())
    return found
