"""Texts of labelled files without their labels: each once, none that is held out, several to a document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from weft.cli.main import main
from weft.core.errors import DataError, UsageError
from weft.data.bare import BareConfig, write

BIO = "小 B-PER\n明 I-PER\n在 O\n\n北 B-LOC\n京 I-LOC\n\n小 O\n明 O\n在 O\n"


def texts(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_sentences_come_once_and_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.bio").write_text(BIO, encoding="utf-8")
    out = tmp_path / "out.jsonl"
    figures = write([tmp_path / "a.bio"], out, BareConfig(reader="bio", join=2))
    assert texts(out) == ["小明在\n北京"]
    assert figures == {"texts": 2, "documents": 1, "characters": 5, "dropped": {"exact_duplicate": 1}}


def test_what_is_held_out_or_broken_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"dialogue": "A: how are you today?", "summary": "fine"}, {"dialogue": "x", "summary": ""}, {}]
    lines = [json.dumps(row) for row in rows] + ["{", json.dumps({"dialogue": "B: see you tomorrow!"})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "held.txt").write_text("b -- see you TOMORROW\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    chosen = BareConfig(fields=("dialogue", "summary"))
    figures = write([tmp_path / "a.jsonl"], out, chosen, [tmp_path / "held.txt"])
    assert texts(out) == ["A: how are you today?\nfine", "x"]
    assert figures["dropped"] == {"no_text": 1, "bad_json": 1, "excluded": 1}


def test_a_sample_follows_its_seed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("review,label\n" + "".join(f"text {n},1\n" for n in range(50)))
    drawn = []
    for seed in (1, 1, 2):
        write(
            [tmp_path / "a.csv"],
            tmp_path / "o.jsonl",
            BareConfig("csv", fields=("review",), sample=9, seed=seed),
        )
        drawn.append(texts(tmp_path / "o.jsonl"))
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 9


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"words": "x"}\n')
    with pytest.raises(DataError, match=r"No text is left.*name --fields"):
        write([tmp_path / "a.jsonl"], tmp_path / "o.jsonl", BareConfig())
    for wrong in ({"join": 0}, {"sample": -1}):
        with pytest.raises(UsageError, match="must be at least"):
            BareConfig(**wrong)
    assert not (tmp_path / "o.jsonl").exists()


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.bio").write_text(BIO, encoding="utf-8")
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(
        main, ["data", "texts", str(tmp_path / "a.bio"), "--reader", "bio", "--out", str(out)]
    )
    assert done.exit_code == 0 and "2 texts, 5 characters, in 2 documents" in done.output
    assert texts(out) == ["小明在", "北京"]
