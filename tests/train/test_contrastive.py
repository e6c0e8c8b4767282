"""Vectors from pairs of texts: the loss of the papers, exact resume, and what ``embed`` says afterwards."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_objectives import SMALL
from test_session import StopAt, losses, train, weights

import weft
from weft.checkpoint.huggingface import load_any
from weft.core import config
from weft.core.errors import ConfigError, DataError, Interrupted
from weft.data import supervised
from weft.data.batch import IGNORED
from weft.data.config import SplitConfig
from weft.data.forms import Similar
from weft.data.similar import SimilarLoader
from weft.parallel.model import ParallelModel
from weft.train.config import TrainRun
from weft.train.objectives.contrastive import Contrastive, shared

DIGITS = "零一二三四五六七八九"


def pairs(count: int = 600) -> list[dict[str, str]]:
    """Digits in one spelling and in another: what belongs together shares no word."""
    chance = random.Random(3)
    numbers = {tuple(chance.choices(range(10), k=3)): None for _ in range(count)}
    return [
        {"query": " ".join(map(str, one)), "positive": "".join(DIGITS[digit] for digit in one)}
        for one in numbers
    ]


def folder_of(records: list[dict[str, str]], folder: Path, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (folder / "pairs.jsonl").write_text(lines, encoding="utf-8")
    chosen = supervised.SupervisedConfig(form="similar", split=SplitConfig(valid=0.1), **settings)
    supervised.prepare([folder / "pairs.jsonl"], 512, folder / "data", chosen)
    return folder / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(pairs(), tmp_path_factory.mktemp("similar"))


def made(folder: Path, steps: int, *more: str) -> TrainRun:
    given = [f"data.path={folder}", "objective.name=contrastive", *SMALL, f"train.steps={steps}", *more]
    return config.load(TrainRun, None, given)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(made(data, 60, "model.dropout=0.0", "train.save_steps=100"), folder)
    return folder


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"query": "a"}, "no_pair"),
        ("text", "no_pair"),
        ({"query": "a", "positive": " "}, "empty"),
        ({"query": "a", "positive": "a"}, "same_text"),
        ({"query": "a\ud800", "positive": "b"}, "invalid_encoding"),
    ],
)
def test_bad_records_are_dropped_with_a_reason(record: Any, reason: str) -> None:
    example, found, value = Similar().example(record)
    assert (example, found) == (None, reason) and value


def test_fields_have_other_names_and_columns_are_found(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("x\ta\n" + "".join(f"q{i}\tp{i}\n" for i in range(9)), encoding="utf-8")
    chosen = supervised.SupervisedConfig(form="similar", fields=("x", "a"), split=SplitConfig(0.0, 0.0))
    record = supervised.prepare([tmp_path / "p.tsv"], 512, tmp_path / "data", chosen)
    assert record["figures"]["train"]["documents"] == 18
    with pytest.raises(DataError, match="two fields"):
        Similar(("a", "b", "c"))


def test_both_texts_lie_in_one_row_behind_each_other(data: Path) -> None:
    loader = SimilarLoader(data / "shards", "train", 64, 4)
    tokenizer = weft.tokenizer.Tokenizer.load(data / "tokenizer")
    found = []
    for batch in loader.sequential():
        for tokens, targets, start in zip(batch.tokens, batch.targets, batch.document_start, strict=True):
            firsts = np.flatnonzero(targets != IGNORED)
            assert len(firsts) % 2 == 0 and (start[firsts] == firsts).all()
            for first in firsts:
                ids = tokens[start == first].tolist()
                assert ids[: len(tokenizer.start_ids)] == list(tokenizer.start_ids)
                found.append(tokenizer.decode(ids[len(tokenizer.start_ids) :]))
    known = {(record["query"], record["positive"]) for record in pairs()}
    assert len(found) == 2 * loader.counts["kept"] > 500
    assert set(zip(found[0::2], found[1::2], strict=True)) <= known


def test_equal_texts_have_equal_numbers_and_are_no_negatives(tmp_path: Path) -> None:
    records = [{"query": f"q {i}", "positive": f"p {i % 7}"} for i in range(60)]
    loader = SimilarLoader(folder_of(records, tmp_path) / "shards", "train", 64, 8)
    batch = loader.batch(0)
    numbers = torch.from_numpy(batch.targets[batch.targets != IGNORED]).view(-1, 2)
    assert len(numbers[:, 0].unique()) == len(numbers) and len(numbers[:, 1].unique()) <= 7
    hidden = shared(numbers)
    assert (hidden == (numbers[:, None, 1] == numbers[None, :, 1]).fill_diagonal_(False)).all()
    assert hidden.any()


def test_the_loss_is_that_of_the_papers_on_texts_alone(data: Path, trained: Path) -> None:
    transformers = pytest.importorskip("transformers")
    stock = transformers.AutoModel.from_pretrained(trained / "model", dtype=torch.float32).eval()
    batch = SimilarLoader(data / "shards", "train", 64, 3).batch(0)
    vectors = []
    for tokens, targets, start in zip(batch.tokens, batch.targets, batch.document_start, strict=True):
        for first in np.flatnonzero(targets != IGNORED):
            with torch.no_grad():
                hidden = stock(torch.from_numpy(tokens[start == first])[None]).last_hidden_state[0]
            vectors.append(hidden.mean(0).double().numpy())
    unit = [vector / np.linalg.norm(vector) for vector in vectors]
    queries, positives = unit[0::2], unit[1::2]
    expected = 0.0
    for i in range(len(queries)):
        ahead = [math.exp(float(queries[i] @ other) / 0.1) for other in positives]
        back = [math.exp(float(positives[i] @ other) / 0.1) for other in queries]
        expected -= 0.5 * (math.log(ahead[i] / sum(ahead)) + math.log(back[i] / sum(back)))
    model = load_any(trained, torch.float32)
    objective = Contrastive(0.1)
    assert objective.count(batch) == len(queries) > 9
    model.train()
    found = objective.loss(model, ParallelModel.alone(model).rows(batch), 0.5, torch.float32)
    assert found.item() == pytest.approx(0.5 * expected, rel=1e-4)
    found.backward()
    assert model.embedding.weight.grad.abs().max() > 0


def test_a_pair_alone_teaches_nothing_and_still_goes_backward(data: Path, trained: Path) -> None:
    batch = SimilarLoader(data / "shards", "train", 64, 1).batch(0)
    batch.targets[:, np.flatnonzero(batch.targets[0] != IGNORED)[2:]] = IGNORED
    model = load_any(trained, torch.float32)
    for part, pairs_in in ((batch, 1), (batch.part(1, 2), 0)):
        objective = Contrastive()
        loss = objective.loss(model, ParallelModel.alone(model).rows(part), 1.0, torch.float32)
        loss.backward()
        assert objective.count(part) == pairs_in and loss.item() == 0.0


def test_resume_is_exact_and_the_head_stays(data: Path, tmp_path: Path) -> None:
    run = made(data, 12)
    train(run, tmp_path / "whole")
    found = losses(tmp_path / "whole")
    assert found[-1] < 0.9 * found[0]
    with pytest.raises(Interrupted):
        train(run, tmp_path / "parts", hooks=[StopAt(6)])
    train(run, tmp_path / "parts")
    assert losses(tmp_path / "parts") == found
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert load_any(tmp_path / "whole").config.architecture == "ModernBertForMaskedLM"
    sizes = ("model.hidden_size", "model.num_hidden_layers", "model.num_attention_heads", "train.steps")
    again = [s for s in SMALL if not s.startswith(sizes)]
    more = config.load(
        TrainRun, None,
        [f"data.path={data}", "objective.name=contrastive", *again, "train.steps=3",
         f"model.start={tmp_path / 'whole'}"],
    )  # fmt: skip
    train(more, tmp_path / "more")
    before, after = (dict(load_any(tmp_path / n).named_parameters()) for n in ("whole", "more"))
    assert torch.equal(before["head.dense.weight"], after["head.dense.weight"])
    assert not torch.equal(before["embedding.weight"], after["embedding.weight"])


def test_a_mapping_is_learnt_and_embed_ranks_the_positive_first(trained: Path, data: Path) -> None:
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation_accuracy"] > 0.9 and last["validation_loss"] < 1.0
    model = weft.load(trained)
    rows = pairs()[:200]
    queries = model.embed([row["query"] for row in rows])
    positives = model.embed([row["positive"] for row in rows])
    best = (np.stack(queries) @ np.stack(positives).T).argmax(1)
    assert (best == np.arange(len(rows))).mean() > 0.9


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would cut one of two"):
        made(data, 2, "objective.long=cut")
    with pytest.raises(ConfigError, match=r"objective\.temperature"):
        made(data, 2, "objective.temperature=0")
    with pytest.raises(DataError, match="holds similar"):
        train(config.load(TrainRun, None, [f"data.path={data}", "objective.name=tag", *SMALL,
                                           "train.steps=2"]), tmp_path / "tag")  # fmt: skip
    with pytest.raises(DataError, match="No pair"):
        SimilarLoader(data / "shards", "train", 4)
    with pytest.raises(ConfigError, match="trains no task"):
        train(made(data, 2, "objective.task=sentiment"), tmp_path / "task")
