"""``weft eval --chat`` as a user types it: answers, judges, a table, a page and a record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from task_runs import lines, reviews, trained
from weft.checkpoint.huggingface import save_model
from weft.cli.main import main
from weft.models import Decoder
from weft.tokenizer import Tokenizer

LONGER = "def judge(prompt: str, first: str, second: str) -> int:\n    return len(first) - len(second)\n"


def weft(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> Path:
    """Two chat models, ``one`` and ``other``, and eight conversations."""
    folder = tmp_path_factory.mktemp("chat")
    for seed, name in enumerate(("one", "other")):
        save_model(folder / name, tiny_decoder(seed=seed), tiny_tokenizer)
    asked = [{"instruction": f"今天 {number} <b>", "output": "很好" * number} for number in range(1, 9)]
    lines(folder / "chats.jsonl", asked)
    (folder / "judge.py").write_text(LONGER)
    return folder


def answers(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_against_the_references(folder: Path, tmp_path: Path) -> None:
    given = ("eval", folder / "one", "--chat", folder / "chats.jsonl", "--max-new-tokens", 12)
    out = ("--report", tmp_path / "page.html", "--json", tmp_path / "r.json")
    done = weft(*given, *out, "--judge", folder / "judge.py")
    assert done.exit_code == 0, done.output
    for words in ("8 conversations", "loss", "bits_per_byte", "win_rate", "against reference, judged by"):
        assert words in done.output
    record = json.loads((tmp_path / "r.json").read_text())
    told = record["verdicts"]
    rows = answers(tmp_path / "page.jsonl")
    wins = sum(len(row["first"]) > len(row["second"]) for row in rows)
    assert told["wins"] == wins == [row["winner"] for row in rows].count("first")
    assert told["wins"] + told["ties"] + told["losses"] == 8 and told["orders_disagree"] == 0
    assert all(row["second"] == row["reference"] for row in rows)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "今天 1 &lt;b&gt;" in page and "胜率" in page and "page.jsonl" in page
    # The same again, word for word, without a judge: nothing is won.
    done = weft(*given, "--report", tmp_path / "again.html")
    assert done.exit_code == 0 and "win_rate" not in done.output
    again = answers(tmp_path / "again.jsonl")
    assert [row["first"] for row in again] == [row["first"] for row in rows]
    assert {row["winner"] for row in again} == {None}


def test_verdicts_of_people_on_the_answers_of_two_models(folder: Path, tmp_path: Path) -> None:
    given = ("eval", folder / "one", "--chat", folder / "chats.jsonl", "--against", folder / "other")
    given = (*given, "--max-new-tokens", "12", "--report", tmp_path / "a.html")
    done = weft(*given)
    assert done.exit_code == 0, done.output
    assert f"model - {folder / 'other'}:" in done.output
    rows = answers(tmp_path / "a.jsonl")
    assert any(row["first"] != row["second"] for row in rows)
    verdicts = lines(tmp_path / "verdicts.jsonl", [{**row, "winner": "second"} for row in rows])
    done = weft(*given, "--judge", verdicts, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "r.json").read_text())["verdicts"]
    assert (told["wins"], told["losses"] + told["equal_answers"]) == (0, 8)
    # One pair fewer; the answers of this time are there to be judged.
    lines(tmp_path / "verdicts.jsonl", [{**row, "winner": "second"} for row in rows[1:]])
    done = weft(*given, "--judge", verdicts)
    assert done.exit_code == 1 and "1 of " in done.output and "have no verdict" in done.output
    assert answers(tmp_path / "a.jsonl") == rows
    done = weft(*given, "--judge", tmp_path / "a.jsonl")
    assert done.exit_code == 2 and "written over the verdicts" in done.output


def test_a_model_judges(folder: Path, tmp_path: Path) -> None:
    given = ("eval", folder / "one", "--chat", folder / "chats.jsonl", "--max-new-tokens", 12)
    out = ("--report", tmp_path / "a.html", "--json", tmp_path / "r.json")
    done = weft(*given, *out, "--judge", folder / "one")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "r.json").read_text())["verdicts"]
    # A model finds its own likeliest words likelier than what people wrote.
    assert told["wins"] == 8 and told["judge_sha256"] is None


def test_what_cannot_be_measured_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    chats = ("--chat", folder / "chats.jsonl")
    nothing = lines(tmp_path / "nothing.jsonl", [{"messages": [{"role": "user", "content": "a"}]}])
    (tmp_path / "empty.py").write_text("")
    for arguments, code, words in (
        (("--judge", folder / "judge.py"), 2, "give it too"),
        ((*chats, "--judge", tmp_path / "none.py"), 2, "There is no judge"),
        ((*chats, "--judge", tmp_path / "empty.py"), 2, "has no function judge"),
        ((*chats, "--against", tmp_path / "none"), 1, "none"),
        (("--chat", nothing), 1, "is no conversation with an answer"),
        ((*chats, "--max-new-tokens", 0), 2, "at least one token"),
        ((*chats, "--examples", tmp_path / "x.md"), 2, "--examples is for --task-files"),
    ):
        done = weft("eval", folder / "one", *arguments, "--report", tmp_path / "r.html")
        assert done.exit_code == code and words in done.output, (arguments, done.output)
        assert "Traceback" not in done.output


@pytest.mark.slow
def test_a_model_of_another_task_does_not_chat(folder: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, lines(tmp_path / "train.jsonl", reviews(40)), "classify", steps=2)
    done = weft("eval", run, "--chat", folder / "chats.jsonl")
    assert done.exit_code == 2 and "does not chat" in done.output
