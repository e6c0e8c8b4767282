"""Verbs of tasks: a line for people and a record for programs, equal to what Python answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests import task_models
from tests.task_models import TEXTS

import weft
from weft.checkpoint.huggingface import save_model
from weft.cli.main import main


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return task_models.made(tmp_path_factory)


def run(*arguments: object, **how: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **how)


def answers(tmp_path: Path, *arguments: object, **how: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The lines and the records of a command that goes well."""
    result = run(*arguments, "--json", tmp_path / "record.json", **how)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["command"] == record["task"] == arguments[0]
    lines = result.stdout.splitlines()
    assert len(lines) == len(record["results"])
    return lines, record["results"]


@pytest.mark.parametrize("verb", ["sentiment", "classify"])
def test_labels(verb: str, models: dict[str, Path], tmp_path: Path) -> None:
    texts = [TEXTS["sentiment"], "讨厌 了"]
    lines, records = answers(tmp_path, verb, models["sentiment"], *texts)
    assert [line.split("\t")[0] for line in lines] == ["正面", "负面"]
    expected = weft.load(models["sentiment"]).classify(texts)
    assert records == [one.table() for one in expected]


def test_entities_and_roles(models: dict[str, Path], tmp_path: Path) -> None:
    lines, records = answers(tmp_path, "entities", models["entities"], TEXTS["entities"])
    assert lines == ["人名 小明 [3:5]\t地名 Rome [10:14]"]
    expected = weft.load(models["entities"]).find_entities(TEXTS["entities"])
    assert records == [{"spans": [span.table() for span in expected]}]
    by_word, _ = answers(tmp_path, "roles", models["roles"], TEXTS["roles"], "--predicate", "喜欢")
    assert by_word == ["谁 小明 [0:2]\t什么 北京 [6:8]"]
    assert answers(tmp_path, "roles", models["roles"], TEXTS["roles"], "--at", 3, 5)[0] == by_word


def test_answers(models: dict[str, Path], tmp_path: Path) -> None:
    asked = ("answer", models["answers"], "--question", TEXTS["question"])
    lines, records = answers(tmp_path, *asked, "--context", TEXTS["context"])
    expected = weft.load(models["answers"]).answer(TEXTS["question"], TEXTS["context"])
    assert records == [expected.table()]
    assert lines[0].startswith("小明\t[2:4]\t")
    file = tmp_path / "context.txt"
    file.write_text(TEXTS["context"], encoding="utf-8")
    assert answers(tmp_path, *asked, "--context-file", file)[1] == records
    several, _ = answers(tmp_path, *asked, "--question", "在哪", "--context", TEXTS["context"])
    assert several[1].startswith("上海\t")
    none, _ = answers(tmp_path, *asked, "--context", TEXTS["context"], "--least-score", 1.0)
    assert none[0].startswith("not found\t")


def test_translations_with_alternatives_and_a_glossary(models: dict[str, Path], tmp_path: Path) -> None:
    asked = ("translate", models["translation"], TEXTS["translation"], "--to", "zh")
    model = weft.load(models["translation"])
    lines, records = answers(tmp_path, *asked, "--alternatives", 3, "--beams", 5)
    assert records == [model.translate(TEXTS["translation"], "zh", alternatives=3, beams=5).table()]
    assert len(lines[0].split("\t")) == 3
    terms = tmp_path / "terms.tsv"
    terms.write_text("1\t一\n\n2\t二\n", encoding="utf-8")
    _, records = answers(tmp_path, *asked, "--glossary", terms)
    assert records == [model.translate(TEXTS["translation"], "zh", glossary={"1": "一", "2": "二"}).table()]
    terms.write_text("1 一\n", encoding="utf-8")
    wrong = run(*asked, "--glossary", terms)
    assert wrong.exit_code == 2 and "Line 1 of" in wrong.stderr


def test_summaries(models: dict[str, Path], tmp_path: Path) -> None:
    lines, records = answers(tmp_path, "summarize", models["summary"], TEXTS["summary"], "--max-length", 9)
    expected = weft.load(models["summary"]).summarize(TEXTS["summary"], 9)
    assert lines == [str(expected)] and records == [expected.table()]


def test_vectors(models: dict[str, Path], tmp_path: Path) -> None:
    lines, records = answers(tmp_path, "embed", models["entities"], "今天", "Rome")
    expected = weft.load(models["entities"]).embed(["今天", "Rome"])
    assert np.allclose([record["embedding"] for record in records], expected)
    assert np.allclose([[float(part) for part in line.split()] for line in lines], expected, atol=1e-5)


def test_texts_from_files_and_standard_input(models: dict[str, Path], tmp_path: Path) -> None:
    texts = [TEXTS["sentiment"], "讨厌 了"] * 40
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{text}\r\n" for text in texts), encoding="utf-8")
    lines, records = answers(tmp_path, "sentiment", models["sentiment"], "--file", file)
    assert len(records) == 80 and lines[:2] == lines[-2:]
    piped, _ = answers(
        tmp_path, "sentiment", models["sentiment"], "--file", "-", input="\n".join(texts[:2]).encode()
    )
    assert piped == lines[:2]


def test_the_record_alone_is_on_standard_output(models: dict[str, Path]) -> None:
    result = run("sentiment", models["sentiment"], TEXTS["sentiment"], "--json", "-")
    assert json.loads(result.stdout)["results"][0]["label"] == "正面"
    assert result.stderr.startswith("正面\t")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sentiment", "sentiment"), "Give TEXT, one or several, or --file FILE"),
        (("sentiment", "sentiment", "好", "--file", "x"), "not both"),
        (("sentiment", "sentiment", "--file", "nowhere"), "nowhere cannot be read"),
        (("sentiment", "sentiment", "好", " "), "Text 1 is empty"),
        (("sentiment", "sentiment", "好 " * 200), "tokens and this model reads 1 to 64"),
        (("sentiment", "sentiment", "好", "--dtype", "int8"), "write float32 or bfloat16"),
        (("entities", "sentiment", "好"), "objective.name=tag"),
        (("translate", "sentiment", "好"), "objective.name=pairs"),
        (("translate", "translation", "1", "--to", "fr"), "writes de and zh, not fr"),
        (("translate", "translation", "1", "--to", "zh", "--beams", 0), "must be at least 1"),
        (("summarize", "translation", "1"), "not trained for summarize"),
        (("roles", "roles", "小明 喜欢 北京"), "Give --predicate WORD or --at"),
        (("roles", "roles", "小明 喜欢 北京", "--predicate", "讨厌"), "occurs not in the text"),
        (("answer", "answers", "--question", "谁在"), "Give --context TEXT or --context-file"),
        (("embed", "translation", "1"), "not trained for embed"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: tuple[str, ...], said: str, models: dict[str, Path]
) -> None:
    verb, model, *rest = arguments
    result = run(verb, models[model], *rest)
    assert result.exit_code == 2 and said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_empty_and_foreign_lines_of_a_file(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    for raw, said in (("好\n\n好\n".encode(), "Line 2 of"), (b"\xff\xfe", "is not UTF-8 text")):
        file.write_bytes(raw)
        result = run("sentiment", models["sentiment"], "--file", file)
        assert result.exit_code == 2 and said in result.stderr


def test_a_decoder_says_what_would_train_it(tmp_path: Path, tiny_decoder: Any, tiny_tokenizer: Any) -> None:
    save_model(tmp_path / "tiny", tiny_decoder(), tiny_tokenizer)
    for verb in ("translate", "classify", "sentiment", "entities", "summarize", "embed"):
        result = run(verb, tmp_path / "tiny", "今天")
        assert result.exit_code == 2 and "weft train" in result.stderr
