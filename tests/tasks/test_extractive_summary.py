"""Summaries out of a text: what is taken, and a tiny model that learnt which sentences matter."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.task_models import SMALL

from weft.api import ReadingModel, load
from weft.cli.summarize import command
from weft.core import config
from weft.core.errors import CheckpointError, UsageError
from weft.data import supervised
from weft.data.config import SplitConfig
from weft.data.forms.offsets import Placed
from weft.data.sentences import sentences
from weft.recipes.task_answers import Writing
from weft.recipes.task_eval import TaskFiles, evaluate_task
from weft.server.tasks import WINDOWS, TaskWorker, facts
from weft.tasks import Card, extractive, read_card, write_card
from weft.train import session
from weft.train.config import TrainRun

WORDS = ("今天", "真的", "我们", "产品", "天气", "很好")


def article(chance: random.Random, length: int = 4) -> tuple[str, str]:
    """A text one sentence of which has the word for «released», and that sentence."""
    plain = ["".join(chance.choices(WORDS, k=3)) + "。" for _ in range(length)]
    place = chance.randrange(length)
    plain[place] = f"{chance.choice(WORDS)}发布{chance.choice(WORDS)}内核。"
    return "".join(plain), plain[place]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extractive")
    chance = random.Random(0)
    for name, count in (("train", 300), ("few", 10), ("test", 30)):
        rows = [dict(zip(("text", "summary"), article(chance), strict=True)) for _ in range(count)]
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    chosen = supervised.SupervisedConfig(
        form="extractive", fields=("text", "summary"), split=SplitConfig(valid=0.1, test=0.0)
    )
    supervised.prepare([folder / "train.jsonl"], 320, folder / "data", chosen)
    changes = [f"data.path={folder / 'data'}", "objective.name=extractive", *SMALL, "train.steps=30"]
    changes += ["model.architecture=WeftLstmForTokenClassification", "train.best=validation_accuracy"]
    kept = [change for change in changes if not change.startswith("model.num_attention_heads")]
    session.train(config.load(TrainRun, None, kept), folder / "run", say=lambda text: None)
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> ReadingModel:
    found = load(run)
    assert isinstance(found, ReadingModel)
    return found


def test_pieces_that_raise_the_expected_f1_are_taken_in_the_order_of_the_text() -> None:
    hits = np.array([0.9, 0.9, 0.1, 0.1, 0.8, 0.8, 0.8])
    first, second, third = range(0, 2), range(2, 4), range(4, 7)
    assert extractive.choose(hits, [first, second, third], 10) == [first, third]
    assert extractive.choose(hits, [first, second, third], 4) == [third], "no more fits"
    assert extractive.choose(hits, [range(7), first], 2) == [range(2)], "the best is cut"
    assert extractive.choose(hits, [second, third], 5) == [third], "the other would lower it"
    assert extractive.choose(hits, [], 5) == []


def test_pieces_are_joined_as_people_write() -> None:
    assert extractive.joined(["今天很好。", "真的，"]) == "今天很好。真的"
    assert extractive.joined(["One.", "Two,"]) == "One. Two"
    assert extractive.joined(["方法.", "结果"]) == "方法. 结果"


def test_a_text_without_a_piece_that_fits_is_cut_and_not_confident() -> None:
    text = "今天很好"
    one = Placed([0, 1, 2, 3, 4], [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4)])
    shares = np.array([[0.5, 0.5]] + [[0.2, 0.8]] * 4)
    cut = extractive.decode(text, one, shares, "sentence", 2)
    assert (cut, cut.confident) == ("今天", False)
    assert [(span.start, span.end) for span in cut.spans] == [(0, 2)]
    whole = extractive.decode(text, one, shares, "sentence", 4)
    assert (whole, whole.confident, round(whole.score, 3)) == (text, True, 0.8)
    assert not extractive.decode(text, one, shares, "sentence", 4, usual=1.7).confident


def test_the_sentence_that_matters_is_found(model: ReadingModel) -> None:
    assert model.tasks == ("summarize", "embed")
    chance = random.Random(1)
    texts = [article(chance) for _ in range(20)]
    found = model.summarize([text for text, _ in texts], max_length=12)
    assert sum(str(one) == gold for one, (_, gold) in zip(found, texts, strict=True)) >= 18
    for one, (text, _) in zip(found, texts, strict=True):
        assert all(text[span.start : span.end] == span.text for span in one.spans)
        assert all((span.start, span.end) in sentences(text) for span in one.spans)
    record = found[0].table()
    assert record["text"] == str(found[0]) and 0 <= record["score"] <= 1 and record["spans"]
    assert model.summarize(texts[0][0], max_length=12) == found[0], "alone as together"
    with pytest.raises(UsageError, match="max_length = 0 must be at least 1"):
        model.summarize("今天。", max_length=0)


def test_a_long_text_is_read_to_its_end(model: ReadingModel) -> None:
    filler = "".join("".join(random.Random(n).choices(WORDS, k=3)) + "。" for n in range(40))
    found = model.summarize(filler + "今天发布产品内核。", max_length=12)
    assert len(model.tokenizer.encode(filler)) > 3 * model.reader.most
    assert found.spans[-1].start == len(filler)


def test_the_command_prints_the_summary(run: Path, tmp_path: Path) -> None:
    text = "今天天气很好。我们发布产品内核。"
    file = tmp_path / "found.json"
    done = CliRunner().invoke(command, [str(run), text, "--max-length", "12", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == "我们发布产品内核。"
    record = json.loads(file.read_text(encoding="utf-8"))["results"][0]
    assert [(span["start"], span["end"]) for span in record["spans"]] == [(7, 16)]


def test_it_is_measured_beside_the_beginning_of_the_text(run: Path) -> None:
    folder = run.parent
    files = TaskFiles((folder / "test.jsonl",), (folder / "few.jsonl",), fields=("text", "summary"))
    record = evaluate_task(run, files, Writing(max_length=12), draws=200)
    assert (record["task"], record["items"], record["language"]) == ("summary", 30, "zh")
    figures = {row["name"]: row for row in record["figures"]}
    assert figures["rougeL"]["model"]["value"] > 0.9
    names = set(figures["rougeL"]["baselines"])
    assert {name.partition("-")[0] for name in names} == {"lead", "longest", "words"}
    assert figures["rougeL"]["model"]["value"] > max(
        one["value"] for one in figures["rougeL"]["baselines"].values()
    )


def test_the_server_reads_texts_in_windows(model: ReadingModel) -> None:
    told = facts(model)
    assert (told["tasks"], told["windows"]) == (["summarize", "embed"], WINDOWS)
    worker = TaskWorker(model, 4)
    text = "今天天气很好。我们发布产品内核。"
    asked: dict[str, Any] = {"op": "task", "task": "summarize", "settings": {"max_length": 12}, "owner": ""}
    request = worker.add(asked | {"item": {"text": text}})
    worker.step()
    record = worker.news(request)["record"]
    assert (record["text"], record["spans"][0]["start"]) == ("我们发布产品内核。", 7)


def test_a_card_with_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    write_card(tmp_path, Card("summary", "extractive", unit="clause"))
    assert read_card(tmp_path).unit == "clause"
    text = (tmp_path / "task.json").read_text(encoding="utf-8")
    (tmp_path / "task.json").write_text(text.replace('"clause"', '["clause"]'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is none of sentence, clause"):
        read_card(tmp_path)
