"""Texts get the labels that a classifier is sure of, and no others; what cannot be labelled is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.task_runs import lines, reviews, tagged, trained

from weft.api import load
from weft.cli.main import main
from weft.core.errors import DataError, UsageError
from weft.data.labelled import read
from weft.recipes.self_training import label_texts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return trained(folder, lines(folder / "train.jsonl", reviews(120)), "classify", steps=12)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    rows: list[dict] = [{"text": one["text"]} for one in reviews(40, 400)]
    rows += [{"text": " "}, {"other": "x"}, {"text": "the fine film was lovely " * 40}, {"text": "\ud800"}]
    file = tmp_path / "bare.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return file


def test_labels_are_those_that_the_model_is_sure_of(run: Path, bare: Path, tmp_path: Path) -> None:
    model = load(run)
    texts = [one["text"] for one in reviews(40, 400)]
    scores = dict(zip(texts, model.classify(texts), strict=True))
    middle = sorted(one.score for one in scores.values())[20]
    record = label_texts([run], [bare], tmp_path / "out.jsonl", middle)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    sure = [text for text in texts if scores[text].score >= middle]
    assert [row["text"] for row in rows] == sure and 0 < len(sure) < 40
    assert [row["label"] for row in rows] == [str(scores[text]) for text in sure]
    assert record["texts"] == len(sure) == sum(record["labels"].values())
    assert record["dropped"] == {
        "no_text": 2, "too_long": 1, "invalid_encoding": 1, "unsure": 40 - len(sure),
    }  # fmt: skip


def test_of_several_teachers_the_mean_counts(run: Path, bare: Path, tmp_path: Path) -> None:
    other = trained(tmp_path, lines(tmp_path / "train.jsonl", reviews(120)), "classify", steps=4)
    texts = [one["text"] for one in reviews(40, 400)]
    each = [load(one).classify(texts) for one in (run, other)]
    label_texts([run, other], [bare], tmp_path / "out.jsonl", 0.0)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, one, two in zip(rows, *each, strict=True):
        mean = {label: (one.scores[label] + two.scores[label]) / 2 for label in ("good", "bad")}
        assert row["label"] == max(mean, key=mean.__getitem__)
        assert row["score"] == pytest.approx(max(mean.values()), abs=1e-4)
    rows = [one | {"label": "a " + one["label"]} for one in reviews(40)]
    (tmp_path / "odd").mkdir()
    odd = trained(tmp_path / "odd", lines(tmp_path / "odd.jsonl", rows), "classify", steps=1)
    with pytest.raises(UsageError, match=r"has the labels a .*; teachers must agree on them"):
        label_texts([run, odd], [bare], tmp_path / "no.jsonl", 0.0)


def test_lines_are_what_the_reader_of_lines_reads(run: Path, bare: Path, tmp_path: Path) -> None:
    label_texts([run], [bare], tmp_path / "out.txt", 0.0)
    found = [record for _, record, _, _ in read("lines", [tmp_path / "out.txt"]) if record]
    assert [one["text"] for one in found] == [one["text"] for one in reviews(40, 400)]
    assert {one["label"] for one in found} <= {"good", "bad"}


def test_what_cannot_be_is_said(run: Path, bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match="Of no text a label is as sure as --least-score 1"):
        label_texts([run], [bare], out, 1.0)
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        label_texts([run], [bare], out, 1.5)
    with pytest.raises(DataError, match=r"can be labelled: \{'no_text': 1\}"):
        label_texts([run], [lines(tmp_path / "empty.jsonl", [{"x": 1}])], out, 0.5)
    folder = tmp_path / "tag"
    folder.mkdir()
    tagger = trained(folder, lines(folder / "train.jsonl", tagged(40)), "tag", steps=1)
    with pytest.raises(UsageError, match="labels no texts; give a classifier"):
        label_texts([tagger], [bare], out, 0.5)
    assert not out.exists()


def test_a_label_with_spaces_does_not_fit_into_lines(bare: Path, tmp_path: Path) -> None:
    rows = [one | {"label": "very " + one["label"]} for one in reviews(40)]
    spaced = trained(tmp_path, lines(tmp_path / "train.jsonl", rows), "classify", steps=1)
    with pytest.raises(UsageError, match=r"has spaces; give --out with the suffix \.jsonl"):
        label_texts([spaced], [bare], tmp_path / "out.txt", 0.0)


def test_the_commands_from_labelled_files_to_more_of_them(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "stars.txt"
    file.write_text("".join(f"{n % 3} {one['text']}\n" for n, one in enumerate(reviews(30, 400))))
    texts, out = tmp_path / "texts.jsonl", tmp_path / "more.txt"

    def weft(*arguments: str | Path) -> str:
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return str(done.output)

    told = weft("data", "texts", file, "--reader", "lines", "--label", "1", "--label", "2", "--out", texts)
    assert "20 texts" in told and "dropped: other_label 10" in told
    told = weft("data", "label", run, texts, "--with", run, "--least-score", "0", "--out", out)
    assert "20 texts with labels: bad " in told
    assert len(out.read_text().splitlines()) == 20
