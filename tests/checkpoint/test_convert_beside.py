"""An exported classifier answers as before: what only Weft reads is copied beside the weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from tests.task_runs import lines, reviews, trained

from weft.api import load
from weft.checkpoint.convert import ConvertConfig, convert
from weft.tasks import read_card, write_card
from weft.tasks.naive_bayes import NaiveBayes


def test_an_exported_classifier_keeps_its_card_and_its_counts(tmp_path: Path) -> None:
    run = trained(tmp_path, lines(tmp_path / "train.jsonl", reviews(60)), "classify", steps=2)
    card = dataclasses.replace(read_card(run / "model"), bayes=2.0, temperature=1.5)
    NaiveBayes(["fine", "awful"], ["good", "bad"]).save(run / "model")
    write_card(run / "model", card)
    record = convert(run, tmp_path / "out", ConvertConfig(), command="export")
    assert {"task.json", "naive_bayes.json"} <= set(record["outputs"])
    assert read_card(tmp_path / "out") == card
    asked = ["a fine film", "an awful film"]
    np.testing.assert_array_equal(load(tmp_path / "out").scores(asked), load(run).scores(asked))
    write_card(run / "model", dataclasses.replace(card, temperature=2.0))
    convert(run, tmp_path / "out", ConvertConfig(), command="export")
    assert read_card(tmp_path / "out").temperature == 2.0
