"""From pairs of texts and summaries to labels: sentences, clauses, and which of them say the summary."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.cli.data import command
from weft.core import manifest
from weft.core.errors import DataError
from weft.data import supervised
from weft.data.batch import IGNORED
from weft.data.forms import Extractive
from weft.data.forms.extractive import inside
from weft.data.forms.offsets import Placed, placed
from weft.data.labels import LabelLoader
from weft.data.sentences import UNITS, clauses, sentences
from weft.data.terms import pieces, word_places
from weft.tokenizer import Tokenizer, train

ARTICLE = "天气很好，适合出门。今天发布了新的内核，速度更快！详情见网站。"
ABSTRACT = "研究了混沌映射(MRP),提出3.5种方法.结果(P<0.05).该法可行."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([ARTICLE, ABSTRACT, "Plain English words, too."] * 10, 384, encoder=True)


@pytest.mark.parametrize(
    ("text", "whole", "parts"),
    [
        (ARTICLE, 3, ["天气很好，", "适合出门。", "今天发布了新的内核，", "速度更快！", "详情见网站。"]),
        (ABSTRACT, 3, ["研究了混沌映射(MRP),", "提出3.5种方法.", "结果(P<0.05).", "该法可行."]),
        ("It cost 1,250.5, so: no. Mr. Li agrees.", 2, ["It cost 1,250.5,", "so:", "no.", "Mr. Li agrees."]),
        ("使用.NET和Node.js开发、测试、部署", 1, ["使用.NET和Node.js开发、测试、部署"]),
    ],
)  # fmt: skip
def test_pieces_of_both_languages(text: str, whole: int, parts: list[str]) -> None:
    assert [text[start:stop] for start, stop in clauses(text)] == parts
    assert len(sentences(text)) == whole


@settings(deadline=None)
@given(st.text(alphabet='ab1 中。，,.!?\n"）'))
def test_pieces_keep_all_but_the_space_between(text: str) -> None:
    for cut in UNITS.values():
        places = cut(text)
        assert "".join("".join(text[a:b] for a, b in places).split()) == "".join(text.split())
        assert all(a < b and text[a:b] == text[a:b].strip() for a, b in places)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))


def test_words_and_their_places() -> None:
    text = "在Linux 3.14上，１２"
    assert pieces(text) == ["在", "linux", "3.14", "上", "12"]
    assert [text[a:b] for a, b in word_places(text)] == ["在", "Linux", "3.14", "上", "１２"]


def labelled(text: str, summary: str, tokenizer: Tokenizer) -> str:
    """The characters with the label 1."""
    ((made,),) = Extractive(("text", "lead")).encode(tokenizer, [[text, summary]])
    (one,) = placed(tokenizer, [text])
    assert made.ids == one.ids and made.labels[0] == IGNORED, "the start is no part of a sentence"
    return "|".join(text[a:b] for (a, b), label in zip(one.offsets, made.labels, strict=True) if label == 1)


def test_words_beside_the_same_neighbour_are_labelled(tokenizer: Tokenizer) -> None:
    assert labelled(ARTICLE, "发布新内核，气不好", tokenizer) == "发|布|内|核", "新 has other neighbours"
    assert labelled(ARTICLE, "很，好", tokenizer) == "很|好", "marks are no words"
    assert (
        labelled("Plain English words, too.", "plain ENGLISH", tokenizer).replace("|", "") == "PlainEnglish"
    )
    assert labelled(ARTICLE, "没有", tokenizer) == ""


def test_tokens_of_pieces_follow_each_other() -> None:
    one = Placed([9, 1, 2, 3, 4], [(0, 0), (0, 2), (3, 3), (3, 5), (5, 6)])
    assert inside(one, [(0, 2), (3, 5), (5, 6)]) == [range(1, 2), range(3, 4), range(4, 5)]
    assert inside(one, [(0, 2), (9, 11)]) == [range(1, 2), range(5, 5)]


def test_what_is_no_pair_is_left_out() -> None:
    form = Extractive(("text", "summary"))
    assert form.example({"text": "a"})[1] == "no_pair"
    assert form.example({"text": " ", "summary": "b"})[1] == "empty"
    with pytest.raises(DataError, match="two fields"):
        supervised.SupervisedConfig(form="extractive", fields=("text",))


def test_the_command_and_the_loader(tmp_path: Path) -> None:
    rows = [{"text": f"第{n}天很好。新的内核{n}发布。", "title": f"内核{n}发布"} for n in range(30)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    words = ["supervised", str(file), "--form", "extractive", "--fields", "text,title", "--unit", "clause"]
    words += ["--valid-share", "0.3", "--vocab-size", "384", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    loader = LabelLoader(tmp_path / "out" / "shards", "train", 64, form="extractive")
    assert loader.labels == ("other", "summary")
    assert set(loader.batch(0).targets.ravel().tolist()) == {0, 1, IGNORED}
    assert LabelLoader(tmp_path / "out" / "shards", "valid", 64, form="extractive").rows >= 1
    for share in ("0.5", "0"):
        words[-1] = str(tmp_path / share)
        done = CliRunner().invoke(command, [*words, "--test-share", share])
        assert done.exit_code == 0, done.output
        held = (manifest.read(tmp_path / share / "shards") or {})["figures"]["test"]["documents"]
        assert (held > 0) == (share != "0")
    again = CliRunner().invoke(command, [*words, "--test", str(file), "--test-share", "0"])
    assert "--test gives what --test-share would draw" in str(again.output) + str(again.exception)
    again = CliRunner().invoke(command, [*words, "--valid", str(file)])
    assert again.exit_code != 0
    assert "leave one of them out" in str(again.output) + str(again.exception)
