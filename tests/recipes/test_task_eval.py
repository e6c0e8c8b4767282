"""A checkpoint on labelled files: every row is scored, nothing is silent, and the page is safe."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from task_runs import lines, pairs, questions, reviews, tagged, trained
from weft.api import load
from weft.core.errors import CheckpointError, DataError, UsageError
from weft.eval.standing import MODEL
from weft.eval.task_scores import Spans, scores
from weft.recipes.task_answers import Writing, cut
from weft.recipes.task_baselines import baselines
from weft.recipes.task_calibrate import calibrate
from weft.recipes.task_eval import TaskFiles, evaluate_task
from weft.recipes.task_examples import examples_markdown
from weft.recipes.task_items import read_items
from weft.recipes.task_report import write_task_report
from weft.tasks import read_card, write_card
from weft.tasks.naive_bayes import FILE, NaiveBayes


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    # Some labels are wrong, so that the model is sure of what is not so.
    rows = [one | ({"label": "bad"} if n % 7 == 0 else {}) for n, one in enumerate(reviews(120))]
    return trained(folder, lines(folder / "train.jsonl", rows), "classify", steps=12)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tag")
    return trained(folder, lines(folder / "train.jsonl", tagged(120)), "tag")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("span")
    return trained(folder, lines(folder / "train.jsonl", questions(120)), "span", window=64)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    file = lines(folder / "train.jsonl", pairs(120))
    return trained(folder, file, "pairs", languages=("en", "zh"), both_ways=True)


def data_of(run: Path) -> Path:
    return run.parent / "train.jsonl"


def figure(record: dict, name: str) -> dict:
    return next(row for row in record["figures"] if row["name"] == name)


def test_every_row_is_scored_and_what_cannot_be_asked_is_wrong(classifier: Path, tmp_path: Path) -> None:
    rows = [
        *reviews(20, 300),
        reviews(1, 300)[0],
        {"text": "  ", "label": "good"},
        {"text": "fine", "label": " "},
        {"text": "the fine film was lovely " * 30, "label": "good"},
        {"text": "the odd film", "label": "unheard"},
        {"words": "none"},
    ]
    test = lines(tmp_path / "test.jsonl", rows)
    record = evaluate_task(classifier, TaskFiles([test], [data_of(classifier)]), draws=100)
    assert record["items"] == 24
    assert record["dropped"] == {"no_label": 2} and len(record["dropped_rows"]) == 2
    assert record["notes"] == {"empty": 1, "cut_to_window": 1}
    model = load(classifier)
    asked = [row for row in rows if row.get("text", "").strip() and row.get("label", "").strip()]
    hits = sum(model.classify(row["text"]) == row["label"] for row in asked if len(row["text"]) < 200)
    accuracy = figure(record, "accuracy")
    assert accuracy["model"]["value"] in ((hits + 1) / 24, hits / 24)
    assert set(accuracy["baselines"]) == {"majority", "naive Bayes"}
    assert accuracy["best_baseline"] in accuracy["baselines"]
    assert {"macro_f1", "ece", "ece_before"} <= {row["name"] for row in record["figures"]}
    assert {row["name"] for row in record["by_label"]} == {"good", "bad", "unheard"}
    worst = record["worst"]
    assert [row["quality"] for row in worst] == [0.0] * len(worst)
    sure = [row["confidence"] or 0 for row in worst]
    assert sure == sorted(sure, reverse=True)
    assert any(row["reason"] == "empty" for row in worst)
    assert len(record["examples"]) == 10
    assert record["in_training"] == 0 and "deduplicated" not in record
    json.dumps(record)


def test_what_training_has_is_told_apart(classifier: Path, tmp_path: Path) -> None:
    test = lines(tmp_path / "test.jsonl", [*reviews(6, 300), *reviews(4)])
    record = evaluate_task(classifier, TaskFiles([test], [data_of(classifier)]), draws=50)
    assert record["in_training"] == 4 and record["deduplicated"]["items"] == 6


def test_fields_names_and_readers_are_those_of_the_data(classifier: Path, tmp_path: Path) -> None:
    table = tmp_path / "test.csv"
    table.write_text('review,stars\n"the fine film 7 was lovely",1\nthe cold film 9 was dull,0\n')
    files = TaskFiles([table], reader="csv", fields=("review", "stars"), names=("1=good", "0=bad"))
    record = evaluate_task(classifier, files, draws=20)
    assert record["items"] == 2 and {row["name"] for row in record["by_label"]} == {"good", "bad"}
    assert record["figures"][0]["baselines"] == {}
    bare = TaskFiles([table], reader="csv", fields=("review", "stars"))
    with pytest.raises(
        UsageError, match=r"labels of the files \(0, 1\) are none of the model's \(bad, good\)"
    ):
        evaluate_task(classifier, bare)


def test_files_that_do_not_fit_are_refused_in_a_sentence(
    classifier: Path, tagger: Path, tmp_path: Path
) -> None:
    other = lines(tmp_path / "spans.jsonl", tagged(3))
    with pytest.raises(
        DataError, match=r"No row .* has a gold answer; 3 were read.*no_label \(text, spans\)"
    ):
        evaluate_task(classifier, TaskFiles([other]))
    bare = lines(tmp_path / "bare.jsonl", [{"text": "Anna went"}])
    with pytest.raises(DataError, match="no_labels"):
        evaluate_task(tagger, TaskFiles([bare], reader="cluener"))
    with pytest.raises(DataError, match="are not JSON"):
        evaluate_task(classifier, TaskFiles([data_of(classifier)], reader="squad"))
    with pytest.raises(UsageError, match="squad"):
        evaluate_task(classifier, TaskFiles([other], reader="squat"))
    empty = lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="There is no row"):
        evaluate_task(classifier, TaskFiles([empty]))


def test_entities_beside_a_memory(tagger: Path, tmp_path: Path) -> None:
    nested = {"text": "Anna went to Rome in 1", "spans": [
        {"start": 0, "end": 4, "label": "PER"}, {"start": 0, "end": 9, "label": "PER"},
    ]}  # fmt: skip
    test = lines(tmp_path / "test.jsonl", [*tagged(12, 400), nested])
    record = evaluate_task(tagger, TaskFiles([test], [data_of(tagger)]), draws=50)
    assert record["items"] == 13 and record["task"] == "entities"
    assert figure(record, "f1")["baselines"]["memory"]["value"] > 0.9
    assert record["spans"]["PER"]["support"] == 14
    model = load(tagger)
    found = [{(s.start, s.end, s.label) for s in model.find_entities(one["text"])} for one in tagged(12, 400)]
    gold = [{(s["start"], s["end"], s["label"]) for s in one["spans"]} for one in tagged(12, 400)]
    hits = sum(len(a & b) for a, b in zip(found, gold, strict=True))
    assert figure(record, "recall")["model"]["value"] * 26 == pytest.approx(hits + 1, abs=1.01)


def test_questions_and_answers(reader: Path, tmp_path: Path) -> None:
    rows = [*questions(10, 300), {"question": "why " * 90, "context": "So it is.", "answers": []}]
    record = evaluate_task(reader, TaskFiles([lines(tmp_path / "test.jsonl", rows)]), draws=50)
    assert record["items"] == 11 and record["notes"] == {"question_too_long": 1}
    assert set(figure(record, "f1")["baselines"]) == {"overlap"} and record["unanswerable"] == 1
    [first, *_] = record["examples"]
    assert "/" in first["gold"] or first["gold"] == "–"


def test_a_question_whose_answers_are_broken_still_counts(tmp_path: Path, reader: Path) -> None:
    answers = [{"text": "nowhere", "answer_start": 0}, {"text": "Rome", "answer_start": 0}]
    qas = [
        {"id": "1", "question": "Where?", "answers": answers[:1]},
        {"question": "And?", "answers": answers},
    ]
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "In Rome.", "qas": qas}]}]}))
    record = evaluate_task(reader, TaskFiles([file], reader="squad"), draws=20)
    assert record["items"] == 2 and record["notes"] == {"answer_not_in_context": 1}
    assert sorted(row["gold"] for row in record["examples"]) == ["Rome / nowhere", "nowhere"]
    assert record["dropped"] == {}


def test_translations_in_the_direction_that_is_asked(translator: Path, tmp_path: Path) -> None:
    test = lines(tmp_path / "test.jsonl", pairs(6, 300))
    files = TaskFiles([test], [data_of(translator)])
    record = evaluate_task(translator, files, Writing("zh", beams=1), draws=20)
    assert "tok:zh" in record["signatures"]["bleu"]
    assert set(figure(record, "bleu")["baselines"]) == {"copy", "dictionary"}
    back = TaskFiles([test], fields=("target", "source"))
    record = evaluate_task(translator, back, Writing("en", beams=1), draws=20)
    assert "tok:13a" in record["signatures"]["bleu"]
    assert set(figure(record, "chrf++")["baselines"]) == {"copy"}
    with pytest.raises(
        DataError, match="target language is en, but the second field of the files is Chinese"
    ):
        evaluate_task(translator, files, Writing("en"))
    with pytest.raises(UsageError, match="Say target_language"):
        evaluate_task(translator, files)


def test_usual_scores_of_texts_are_fitted(translator: Path, tmp_path: Path) -> None:
    dev = lines(tmp_path / "dev.jsonl", pairs(5, 300))
    record = calibrate(translator, TaskFiles([dev]), Writing("zh", beams=1))
    assert 0 < record["usual"] <= 1
    assert read_card(translator / "model").usual == record["usual"]


def test_summaries_choose_their_lines_on_training_files(tmp_path: Path) -> None:
    text = "one two\nthe long line of it all\nthree"
    rows = [{"source": text, "target": "the long line of it all"}] * 3
    file = lines(tmp_path / "rows.jsonl", rows)
    from weft.data.supervised_config import SupervisedConfig

    items = read_items([file], SupervisedConfig(form="pairs")).items
    found = baselines("summary", items, items, "en")
    assert set(found) == {"lead-2", "longest-1", "words-10"}
    assert found["longest-1"][0].value == "the long line of it all"
    assert set(baselines("summary", items, [], "en")) == {"lead-3", "longest-3", "words-50"}


def test_the_temperature_is_fitted_and_written(classifier: Path, tmp_path: Path) -> None:
    # A third of the labels is wrong, so that a sure model is too sure.
    rows = [one | ({"label": "good"} if n % 4 == 0 else {}) for n, one in enumerate(reviews(80, 300))]
    dev = lines(tmp_path / "dev.jsonl", rows)
    model = load(classifier)
    assert model.card.temperature == 1.0
    record = calibrate(classifier, TaskFiles([dev]))
    card = read_card(classifier / "model")
    assert card.temperature == record["temperature"] != 1.0 and card.task == "classification"
    assert record["ece_before"] == record["ece_uncalibrated"]
    after = evaluate_task(classifier, TaskFiles([dev]), draws=20)
    assert figure(after, "ece")["model"]["value"] == pytest.approx(record["ece"])
    assert figure(after, "ece_before")["model"]["value"] == pytest.approx(record["ece_before"])
    unknown = lines(tmp_path / "none.jsonl", [{"text": " ", "label": "good"}])
    with pytest.raises(DataError, match="cannot be asked"):
        calibrate(classifier, TaskFiles([unknown]))


def test_a_naive_bayes_stands_beside_the_network(classifier: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(classifier / "model", copy)
    # What the network never saw and the counted texts say: a word that only one label has.
    told = [{"text": f"a gorgeous thing {n}", "label": "good"} for n in range(30)]
    told += [{"text": f"a wretched thing {n}", "label": "bad"} for n in range(30)]
    counted = [one | {"text": one["text"] + " once more"} for one in told]
    wrong = [one | {"label": "bad" if one["label"] == "good" else "good"} for one in told[::10]]
    # What is asked is not counted: the network would seem worse than it is.
    train = lines(tmp_path / "train.jsonl", [*counted, *told[:10]])
    dev = lines(tmp_path / "dev.jsonl", [*reviews(60, 300), *told, *wrong])
    alone = load(copy)
    record = calibrate(copy, TaskFiles([dev], [train]), bayes=True)
    assert (record["counted_texts"], record["left_out"]) == (60, 10)
    assert record["bayes"] > 0 and record["accuracy"] > record["accuracy_before"] + 0.2
    card = read_card(copy)
    assert (card.bayes, card.temperature) == (record["bayes"], record["temperature"])
    model = load(copy)
    assert model.bayes is not None
    assert model.classify(["so gorgeous", "so wretched"]) == ["good", "bad"]
    asked = ["a gorgeous thing", "the fine film", "!"]
    by_hand = alone.scores(asked) + card.bayes * model.evidence(model.bayes, asked)
    np.testing.assert_allclose(model.scores(asked), by_hand)
    assert model.classify("so gorgeous").score == pytest.approx(
        np.exp(model.scores(["so gorgeous"]) / card.temperature)[0, model.labels.index("good")]
        / np.exp(model.scores(["so gorgeous"]) / card.temperature).sum()
    )  # fmt: skip
    after = evaluate_task(copy, TaskFiles([dev]), draws=20)
    assert figure(after, "accuracy")["model"]["value"] == pytest.approx(record["accuracy"])
    assert figure(after, "ece")["model"]["value"] == pytest.approx(record["ece"])
    long = lines(tmp_path / "long.jsonl", [told[0], told[0] | {"text": "the cold film " * 60 + "gorgeous"}])
    known = calibrate(copy, TaskFiles([dev, long], [train]), bayes=True)
    after = evaluate_task(copy, TaskFiles([dev, long]), draws=20)
    assert figure(after, "accuracy")["model"]["value"] == pytest.approx(known["accuracy"])
    assert figure(after, "ece")["model"]["value"] == pytest.approx(known["ece"])
    record, card = calibrate(copy, TaskFiles([dev], [train]), bayes=True), read_card(copy)
    # A temperature that is fitted later leaves the words where they are.
    again = calibrate(copy, TaskFiles([dev]))
    assert read_card(copy).bayes == card.bayes
    assert again["temperature"] == pytest.approx(record["temperature"])
    calibrate(copy, TaskFiles([dev]), bayes=False)
    assert read_card(copy).bayes == 0.0 and not (copy / FILE).exists()
    np.testing.assert_allclose(load(copy).scores(asked), alone.scores(asked))


def test_words_that_say_nothing_are_left_out(classifier: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(classifier / "model", copy)
    right = [*reviews(60, 300), reviews(1, 300)[0] | {"label": "good"}]
    dev = lines(tmp_path / "dev.jsonl", right)
    # The labels of what is counted are exchanged: its evidence would only harm.
    turned = [one | {"label": "bad" if one["label"] == "good" else "good"} for one in reviews(60, 500)]
    # Or nothing in them has to do with the labels, and by chance a weight would be found.
    noise = [{"text": f"word{(7 * n) % 13} film", "label": ("good", "bad")[n % 2]} for n in range(60)]
    NaiveBayes(["of an earlier calibration", "b"], ["good", "bad"]).save(copy)
    for counted in (turned, noise):
        record = calibrate(copy, TaskFiles([dev], [lines(tmp_path / "train.jsonl", counted)]), bayes=True)
        assert record["bayes"] == 0.0 == read_card(copy).bayes
        assert record["accuracy"] == record["accuracy_before"]
        assert load(copy).bayes is None and not (copy / FILE).exists()


def test_files_that_cannot_be_counted_are_told(classifier: Path, tagger: Path, tmp_path: Path) -> None:
    dev = lines(tmp_path / "dev.jsonl", reviews(20, 300))
    only = lines(tmp_path / "only.jsonl", [one for one in reviews(20) if one["label"] == "good"])
    with pytest.raises(DataError, match=r"No text of the files for naive Bayes .* has the label 'bad'"):
        calibrate(classifier, TaskFiles([dev], [only]), bayes=True)
    with pytest.raises(UsageError, match="entities are not calibrated"):
        calibrate(tagger, TaskFiles([data_of(tagger)], [data_of(tagger)]), bayes=True)


def test_a_naive_bayes_of_other_labels_or_none_is_told_and_can_be_mended(
    classifier: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(classifier / "model", copy)
    write_card(copy, dataclasses.replace(read_card(copy), bayes=1.0))
    with pytest.raises(CheckpointError, match=f"holds no {FILE}"):
        load(copy)
    NaiveBayes(["a", "b"], ["good", "neutral"]).save(copy)
    with pytest.raises(CheckpointError, match=r"other labels than the model; .* weft calibrate --no-bayes"):
        load(copy)
    for content in ("[" * 200_000, "null", "{}"):
        (copy / FILE).write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match=FILE):
            load(copy)
    dev = lines(tmp_path / "dev.jsonl", [*reviews(60, 300), reviews(1, 300)[0] | {"label": "good"}])
    calibrate(copy, TaskFiles([dev]), bayes=False)
    assert load(copy).bayes is None


def test_spans_have_no_temperature(tagger: Path) -> None:
    with pytest.raises(UsageError, match="entities are not calibrated"):
        calibrate(tagger, TaskFiles([data_of(tagger)]))


def test_a_perfect_score_fits_no_temperature(classifier: Path, tmp_path: Path) -> None:
    model = load(classifier)
    rows = [{"text": one["text"], "label": str(model.classify(one["text"]))} for one in reviews(8, 300)]
    with pytest.raises(DataError, match="No temperature fits these 8 texts, of which 8 are right"):
        calibrate(classifier, TaskFiles([lines(tmp_path / "dev.jsonl", rows)]))


def test_texts_are_cut_to_exactly_what_fits(classifier: Path) -> None:
    tokenizer = load(classifier).tokenizer
    text = "the fine 电影 was lovely " * 20
    for most in (5, 17, 40):
        short = cut(tokenizer, text, most)
        assert text.startswith(short)
        assert most - 3 <= len(tokenizer.encode(short)) + max(1, len(tokenizer.start_ids)) <= most
    assert cut(tokenizer, "short", 64) == "short"


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "input", "line", "rect", "path", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "path", "circle", "polyline"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["classifier", "tagger", "reader", "translator"])
def test_the_page_opens_and_is_safe(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(kind)
    bad = "<script>alert(1)</script> fine \x01"
    rows = {
        "classifier": [*reviews(5, 300), {"text": bad, "label": "good"}, {"text": bad, "label": ""}],
        "tagger": [*tagged(3, 300), {"text": bad, "spans": [{"start": 0, "end": 8, "label": "LOC"}]}],
        "reader": [*questions(3, 300), {"question": bad, "context": bad, "answers": [{"text": bad}]}],
        "translator": [*pairs(3, 300), {"source": bad, "target": "脚本<script>"}],
    }[kind]
    files = TaskFiles([lines(tmp_path / "test.jsonl", rows)], [data_of(run)])
    record = evaluate_task(run, files, Writing("zh" if kind == "translator" else None, beams=1), draws=20)
    write_task_report(record, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    parsed = Tags()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == [] and {"table", "style", "main"} <= parsed.seen
    for words in ("Figures", "指标", "The worst errors", "随机抽取的样例"):
        assert words in text
    if kind == "classifier":
        assert "Confusion" in text and "校准" in text and "svg" in parsed.seen and "no_label" in text


def test_examples_are_a_table_in_markdown(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    odd = {"text": "a | b\n<i>fine</i> *film*", "label": "good"}
    cases = {
        "classifier": ([*reviews(12, 300), odd], "text | answer | gold | right"),
        "tagger": (tagged(3, 300), "text | answer | gold | F1"),
        "reader": (questions(3, 300), "question / text | answer | gold | F1"),
        "translator": (pairs(3, 300), "source | answer | gold | sentence BLEU"),
    }
    for kind, (rows, head) in cases.items():
        files = TaskFiles([lines(tmp_path / f"{kind}.jsonl", rows)])
        writing = Writing("zh" if kind == "translator" else None, beams=1)
        record = evaluate_task(request.getfixturevalue(kind), files, writing, draws=20)
        text = examples_markdown(record, worst=0)
        assert f"| {head} | confidence |" in text
        table = [line for line in text.splitlines() if line.startswith("|")][2:]
        assert len(table) == len(record["examples"]) == min(10, len(rows)), "no text breaks its row"
        assert {line.replace("\\|", "").count("|") for line in table} == {6}
        shown = {**record["examples"][0], "given": odd["text"]}
        assert "a \\| b \\<i\\>fine" in examples_markdown({**record, "worst": [shown]}, worst=1)


@pytest.mark.skipif(not os.environ.get("WEFT_DATA"), reason="needs WEFT_DATA, a folder of data sets")
def test_a_real_file_is_read_whole() -> None:
    from weft.data.supervised_config import SupervisedConfig

    folder = Path(os.environ["WEFT_DATA"])
    file = folder / "ner" / "cluener2020" / "dev.jsonl"
    found = sorted(file.parent.glob("dev.jsonl*"))
    if not found:
        pytest.skip("CLUENER is not there")
    read = read_items(found[:1], SupervisedConfig(form="tag", reader="cluener"))
    assert len(read.items) + len(read.dropped) == 1343
    memory = baselines("entities", read.items, read.items, "en")["memory"]
    record = scores(Spans(), [item.gold for item in read.items], {MODEL: memory}, draws=20)
    assert 0.8 < figure(record, "f1")["model"]["value"] < 1
