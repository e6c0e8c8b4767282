"""``weft eval --task-files``, ``weft eval --harness`` and ``weft calibrate`` as a user types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from task_runs import lines, reviews, trained
from weft.checkpoint.huggingface import save_model
from weft.cli.main import main
from weft.models import Decoder
from weft.tasks import read_card
from weft.tokenizer import Tokenizer


def weft(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    rows = [one | ({"label": "bad"} if n % 7 == 0 else {}) for n, one in enumerate(reviews(120))]
    lines(folder / "test.jsonl", [*reviews(12, 300), {"text": " ", "label": "good"}])
    flipped = [one | ({"label": "good"} if n % 4 == 0 else {}) for n, one in enumerate(reviews(60, 400))]
    lines(folder / "dev.jsonl", flipped)
    return trained(folder, lines(folder / "train.jsonl", rows), "classify", steps=12)


def test_labelled_files_give_a_table_a_page_and_a_record(run: Path, tmp_path: Path) -> None:
    test, train = run.parent / "test.jsonl", run.parent / "train.jsonl"
    done = weft("eval", run, "--task-files", test, "--train-files", train, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    for words in ("classification: 13 items", "accuracy", "naive Bayes", "wrong, not asked: empty 1"):
        assert words in done.output
    assert (run / "eval.html").is_file() and f"report: {run / 'eval.html'}" in done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["command"] == "eval" and record["items"] == 13
    page, table = tmp_path / "page.html", tmp_path / "examples.md"
    done = weft(
        "eval", run, "--task-files", test, "--report", page, "--examples", table, "--name", "good=bad"
    )
    assert done.exit_code == 0 and page.is_file(), done.output
    assert "10 items, drawn at random:" in table.read_text(encoding="utf-8")
    assert "Without --train-files there is no baseline that learns." in done.output


def test_calibration_writes_the_card(run: Path) -> None:
    done = weft("calibrate", run, "--task-files", run.parent / "dev.jsonl")
    assert done.exit_code == 0, done.output
    assert "temperature 1.000 -> " in done.output and "on 60 texts" in done.output
    assert read_card(run / "model").temperature != 1.0
    done = weft("calibrate", run)
    assert done.exit_code == 2 and "Give --task-files" in done.output


def test_calibration_counts_words_beside_the_network(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(run / "model", copy)
    words = {"good": "gorgeous", "bad": "wretched"}
    told = [{"text": f"a {words[one['label']]} thing", "label": one["label"]} for one in reviews(60)]
    more = [one | {"text": one["text"] + " it was"} for one in told]
    counted = lines(tmp_path / "counted.jsonl", [*more, told[0]])
    dev = lines(tmp_path / "dev.jsonl", [*reviews(60, 400), *told, told[0] | {"label": "good"}])
    done = weft("calibrate", copy, "--task-files", dev, "--bayes-files", counted)
    assert done.exit_code == 0, done.output
    assert "naive Bayes of 60 texts beside the network: weight " in done.output
    assert read_card(copy).bayes > 0 and (copy / "naive_bayes.json").is_file()
    assert "not counted: 1 texts that are in --task-files too" in done.output
    done = weft("calibrate", copy, "--task-files", dev, "--bayes-files", counted, "--no-bayes")
    assert done.exit_code == 2 and "leave one of the two out" in done.output
    done = weft("calibrate", copy, "--task-files", dev, "--no-bayes")
    assert done.exit_code == 0 and not (copy / "naive_bayes.json").exists(), done.output
    done = weft("calibrate", copy, "--task-files", dev, "--bayes-files", tmp_path / "none.jsonl")
    assert done.exit_code == 1 and "none.jsonl" in done.output


def test_curves_of_a_run_are_drawn(run: Path, tmp_path: Path) -> None:
    done = weft("curves", run, "--out", tmp_path / "mine", "--language", "zh")
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine-accuracy.svg", "mine-loss.svg"]
    assert "损失" in (tmp_path / "mine-loss.svg").read_text(encoding="utf-8")
    done = weft("curves", tmp_path)
    assert done.exit_code == 1 and "holds no metrics.jsonl" in done.output


def test_a_file_that_does_not_fit_is_one_sentence(run: Path, tmp_path: Path) -> None:
    done = weft("eval", run, "--task-files", lines(tmp_path / "x.jsonl", [{"a": 1}]))
    assert done.exit_code == 1 and "has a gold answer" in done.output and "Traceback" not in done.output
    done = weft("eval", run, "--task-files", tmp_path / "none.jsonl")
    assert done.exit_code == 1 and "There is no file" in done.output
    done = weft("eval", run, "--harness", "lambada", "--harness-files", tmp_path / "x.jsonl")
    assert done.exit_code == 2 and "is no decoder" in done.output


@pytest.fixture(scope="module")
def decoder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_decoder: Callable[..., Decoder],
    tiny_tokenizer: Tokenizer,
) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    save_model(folder / "model", tiny_decoder(), tiny_tokenizer)
    return folder / "model"


def test_benchmarks_from_local_files(decoder: Path, tmp_path: Path) -> None:
    words = lines(tmp_path / "lambada.jsonl", [{"text": "The dog sleeps on"}, {"text": "we met Anna"}])
    table = [{"instruction": "Open a jar\n\nSolution1: twist\n\nSolution2: shake", "answer": "solution1"}]
    (tmp_path / "piqa.json").write_text(json.dumps(table))
    done = weft(
        "eval", decoder, "--harness", "lambada,piqa", "--harness-files", words, "--harness-files",
        tmp_path / "piqa.json", "--json", tmp_path / "r.json", "--dtype", "float32",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for part in ("lambada: 2 items", "perplexity", "last name", "piqa: 1 items", "chance", "50.00"):
        assert part in done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert [one["benchmark"] for one in record["benchmarks"]] == ["lambada", "piqa"]
    done = weft("eval", decoder, "--harness", "lambada,piqa", "--harness-files", words)
    assert done.exit_code == 2 and "2 benchmarks got 1 --harness-files" in done.output
    done = weft("eval", decoder, "--harness", "lambda", "--harness-files", words)
    assert done.exit_code == 2 and "did you mean 'lambada'" in done.output
    done = weft("eval", decoder, "--task-files", words)
    assert done.exit_code == 2 and "is a decoder, which has no task of its own" in done.output
