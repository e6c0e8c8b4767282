"""``weft data`` and the verbs below it, and ``weft tokenizer``, as a user types them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weft.cli.main import main

ZH = (
    "今天天气很好", "我们去公园散步", "孩子们在学习数学", "这个城市的图书馆很大", "他给妈妈打了电话",
    "老师说明天没有课", "请把门关上", "这条铁路通向海边", "医生让他多休息", "书店里还有很多人",
    "她从北京坐车过来", "这本书写得真好", "我们应该认识这个问题", "晚饭以后他们听音乐", "春天来了花都开了",
)  # fmt: skip
EN = ("stream", "river", "mountain", "winter", "summer", "garden", "letter", "window", "market", "bridge")


def weft(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_corpus(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(20):
        chosen = random.Random(number)
        lines = ["，".join(chosen.choices(ZH, k=3)) + "。\n" for _ in range(20)]
        (folder / f"zh{number:02}.txt").write_text("".join(lines), encoding="utf-8")
        lines = [" ".join(chosen.choices(EN, k=10)) + ".\n" for _ in range(8)]
        (folder / f"en{number:02}.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "twin.txt").write_bytes((folder / "zh00.txt").read_bytes())
    (folder / "tiny.txt").write_text("短\x1b[31m", encoding="utf-8")
    (folder / "image.png").write_bytes(b"\x89PNG\0")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    done = weft("data", write_corpus(folder / "texts"), "--out", folder / "data", "tokenizer.vocab_size=512")
    assert done.exit_code == 0, done.output
    return folder / "data"


def test_data_still_takes_sources_and_says_so(data: Path) -> None:
    done = weft("data", "--help")
    assert done.exit_code == 0 and "SOURCE..." in done.output
    for words in ("--json", "--out", "report", "show", "./NAME"):
        assert words in done.output
    done = weft("data", "--out", data.parent / "none")
    assert done.exit_code == 2 and "There is nothing to read" in done.output
    done = weft("data", data.parent / "texts")
    assert done.exit_code == 2 and "--out" in done.output


def test_folders_named_like_a_verb_are_reached_by_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "report")
    (tmp_path / "report").rename(tmp_path / "show")
    monkeypatch.chdir(tmp_path)
    done = weft("data", "./show", "--out", "out", "tokenizer.vocab_size=512")
    assert done.exit_code == 0 and (tmp_path / "out" / "shards" / "train.bin").is_file(), done.output
    done = weft("data", "show", "out", "--limit", "1")
    assert done.exit_code == 0 and "show/" in done.output


def test_a_report_is_written_into_the_folder_or_elsewhere(data: Path, tmp_path: Path) -> None:
    done = weft("data", "report", data)
    assert done.exit_code == 0 and f"report: {data / 'report.html'}" in done.output
    text = (data / "report.html").read_text(encoding="utf-8")
    for words in ("exact_duplicate", "texts/twin.txt", "zh", "en", "of a vocabulary of 512", "数据报告"):
        assert words in text
    done = weft("data", "report", data, "--out", tmp_path / "p.html", "--json", tmp_path / "r.json")
    assert done.exit_code == 0 and (tmp_path / "p.html").is_file()
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert record["command"] == "data report" and record["kept"]["documents"] == 40
    assert record["dropped"]["too_short"]["documents"] == 1


def test_documents_are_shown(data: Path) -> None:
    done = weft("data", "show", data)
    assert done.exit_code == 0 and done.output.count("texts/") == 20
    done = weft("data", "show", data, "--kept", "--split", "test", "--limit", 99, "--json", "-")
    shown = json.loads(done.stdout)["documents"]
    assert len(shown) == done.stderr.count("texts/") > 0
    assert {document["reason"] for document in shown} == {None}
    done = weft("data", "show", data, "--grep", "。", "--limit", 99)
    # twin.txt has the text of zh00.txt and the first name of the two.
    assert done.output.count("texts/zh") == 19 and done.output.count("texts/") == 20
    short, full = (weft("data", "show", data, "--limit", 1, *more).output for more in ((), ("--full",)))
    assert "…" in short and "…" not in full and len(full) > len(short)


def test_dropped_documents_are_shown_safely(data: Path) -> None:
    done = weft("data", "show", data, "--dropped", "exact_duplicate")
    assert "texts/zh00.txt" in done.output and "dropped: exact_duplicate" in done.output
    done = weft("data", "show", data, "--dropped", "all")
    assert done.output.count("dropped: ") == 3 and "its text was never read" in done.output
    assert "\x1b" not in done.output and "短" in done.output
    done = weft("data", "show", data, "--dropped", "all", "--grep", "nowhere to be found")
    assert done.exit_code == 0 and "No document fits." in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dropped", "exact_duplicat"), "did you mean 'exact_duplicate'?"),
        (("--dropped", "all", "--kept"), "contradict each other"),
        (("--dropped", "all", "--split", "test"), "give --split or --dropped, not both"),
        (("--limit", "0"), "give at least 1"),
        (("--split", "tests"), "did you mean 'test'?"),
        (("--grep", ""), "leave out --grep"),
    ],
)
def test_wrong_choices_are_one_sentence(data: Path, arguments: tuple[str, ...], words: str) -> None:
    done = weft("data", "show", data, *arguments)
    assert done.exit_code == 2 and words in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_folders_without_documents_are_one_sentence(data: Path, tmp_path: Path) -> None:
    for verb in (("data", "report"), ("data", "show")):
        done = weft(*verb, tmp_path)
        assert done.exit_code == 1 and "There are no finished documents" in done.output
    assert not (tmp_path / "report.html").exists()
    done = weft("data", "report", data, "--samples", "-1")
    assert done.exit_code == 2 and "whole numbers from 0 on" in done.output
    assert weft("data", "report").exit_code == 2


def test_tokenizers_are_compared(data: Path, tmp_path: Path) -> None:
    assert weft("data", data.parent / "texts", "--out", tmp_path, "tokenizer.vocab_size=384").exit_code == 0
    record = tmp_path / "r.json"
    other = tmp_path / "tokenizer" / "tokenizer.json"
    done = weft("tokenizer", "compare", data, other, "--split", "train", "--json", record)
    assert done.exit_code == 0, done.output
    for words in ("bytes/token", "single-byte", "exact", " zh ", " en ", "all"):
        assert words in done.output
    found = json.loads(record.read_text(encoding="utf-8"))["tokenizers"]
    assert list(found) == [str(data / "tokenizer"), str(other)]
    large, small = found.values()
    assert (large["vocab_size"], small["vocab_size"]) == (512, 384)
    for language in ("zh", "en"):
        one, two = large["languages"][language], small["languages"][language]
        assert one["bytes_per_token"] >= two["bytes_per_token"] and one["exact"] == one["texts"]
    assert large["all"]["bytes_per_token"] > small["all"]["bytes_per_token"]
    done = weft("tokenizer", "compare", data.parent / "texts" / "zh00.txt", other)
    assert done.exit_code == 0 and "han" in done.output


def test_bad_comparisons_are_one_sentence(data: Path, tmp_path: Path) -> None:
    text = data.parent / "texts" / "zh00.txt"
    for arguments, words in (
        ((text,), "none was given"),
        ((data, tmp_path / "absent.json"), "There is no tokenizer at"),
        ((data, "--split", "tset"), "did you mean 'test'?"),
        ((data, "--sample-bytes", "0"), "give at least 1"),
        ((tmp_path / "absent", data / "tokenizer"), "There is no file or folder"),
    ):
        done = weft("tokenizer", "compare", *arguments)
        assert done.exit_code in (1, 2) and words in done.output, done.output
        assert len(done.output.strip().splitlines()) == 1


def test_shards_of_another_tokenizer_are_called_stale_until_made_again(tmp_path: Path) -> None:
    sources, out = write_corpus(tmp_path / "texts"), tmp_path / "data"
    again = ("data", sources, "--out", out, "tokenizer.vocab_size=448")
    assert weft("data", sources, "--out", out, "tokenizer.vocab_size=512").exit_code == 0
    done = weft("tokenizer", "train", out, "--vocab-size", "512")
    assert done.exit_code == 0 and "stale" not in done.output
    done = weft("tokenizer", "train", out, "--vocab-size", "448")
    assert done.exit_code == 0 and "are stale now" in done.output
    assert "tokenizer.vocab_size=448 and no --tokenizer" in done.output
    assert weft(*again).exit_code == 0
    done = weft("tokenizer", "train", out, "--vocab-size", "448")
    assert "stale" not in done.output
    done = weft("tokenizer", "train", out, "--vocab-size", "448", "--sample-bytes", "3000")
    assert "tokenizer.vocab_size=448 tokenizer.sample_bytes=3000" in done.output


def test_a_reader_that_leaves_is_no_error(data: Path) -> None:
    command = [sys.executable, "-m", "weft", "data", "show", str(data), "--limit", "40", "--full"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_a_classifier_is_trained_and_used(data: Path, tmp_path: Path) -> None:
    texts = data.parent / "texts"
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    for file, prefix in ((good, "zh"), (bad, "en")):
        lines = [
            json.dumps({"text": line})
            for name in sorted(texts.glob(f"{prefix}*.txt"))
            for line in name.read_text(encoding="utf-8").splitlines()
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    trained = weft(
        "data", "classifier", tmp_path / "zh", "--good", good, "--bad", bad, "--json", tmp_path / "c.json"
    )
    assert trained.exit_code == 0, trained.output
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["out"] == str(tmp_path / "zh") and record["auc"] > 0.99
    made = weft(
        "data", texts, "--out", tmp_path / "data", "tokenizer.vocab_size=320",
        f"classifier.path={tmp_path / 'zh'}", "classifier.threshold=0.5",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    shown = weft("data", "show", tmp_path / "data", "--kept", "--limit", "100", "--json", tmp_path / "s.json")
    assert shown.exit_code == 0
    kept = {Path(d["source"]).name[:2] for d in json.loads((tmp_path / "s.json").read_text())["documents"]}
    assert kept == {"zh", "tw"}  # twin.txt is a copy of one in Chinese
    done = weft("data", "classifier", tmp_path / "no", "--good", tmp_path / "none", "--bad", bad)
    assert done.exit_code == 1 and "Traceback" not in done.output and str(tmp_path / "none") in done.output


def test_examples_become_supervised_shards(data: Path, tmp_path: Path) -> None:
    tokenizer = data.parent / "data" / "tokenizer"
    chats = tmp_path / "chats.jsonl"
    talk = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好，请讲。"}]
    rows = [{"messages": [*talk, {"role": "user", "content": f"{n}?"}, talk[1]]} for n in range(50)]
    chats.write_text("\n".join(map(json.dumps, [*rows, {"messages": []}])), encoding="utf-8")
    done = weft("data", "supervised", chats, "--out", tmp_path / "sft", "--tokenizer", tokenizer)
    assert done.exit_code == 0, done.output
    assert "examples" in done.output and "dropped" in done.output
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"zh": f"第{n}个", "en": f"number {n}"} for n in range(50)]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = weft(
        "data", "supervised", pairs, "--out", tmp_path / "mt", "--tokenizer", tokenizer,
        "--form", "pairs", "--fields", "en,zh", "--json", tmp_path / "mt.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "mt.json").read_text())
    assert sum(record[split]["documents"] for split in ("train", "valid", "test")) == 50
    done = weft(
        "data", "supervised", pairs, "--out", tmp_path / "x", "--tokenizer", tokenizer, "--form", "pear"
    )
    assert done.exit_code == 2
