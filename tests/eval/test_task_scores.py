"""Figures of tasks beside baselines, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from weft.core.errors import DataError
from weft.eval.metrics import translation
from weft.eval.standing import MODEL, mean, quotient, standing
from weft.eval.task_scores import NOTHING, Answers, Guess, Labels, Question, Spans, scores
from weft.eval.text_scores import Summaries, Translations


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["name"]: row for row in rows}


def test_labels_as_by_hand() -> None:
    gold = ["a", "a", "b", "c"]
    model = [Guess("a", 0.9, 0.8), Guess("b", 0.7, 0.6), Guess("b", 0.6, 0.5), Guess(None)]
    always = [Guess("a", 0.5)] * 4
    record = scores(Labels(), gold, {MODEL: model, "majority": always}, draws=200)
    found = by_name(record["figures"])
    assert found["accuracy"]["model"]["value"] == 0.5
    assert found["accuracy"]["baselines"]["majority"]["value"] == 0.5
    assert found["accuracy"]["model_minus_best"]["difference"]["value"] == 0
    # a: 2*1/(2+1), b: 2*1/(1+2), c: 0; the answer that was not given is no label.
    assert found["macro_f1"]["model"]["value"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    # Three bins of one answer each; the fourth item has no confidence.
    assert found["ece"]["model"]["value"] == pytest.approx((0.1 + 0.7 + 0.4) / 3)
    assert found["ece_before"]["model"]["value"] == pytest.approx((0.2 + 0.6 + 0.5) / 3)
    assert found["ece"]["lower"] and found["ece"]["baselines"]["majority"]["value"] == pytest.approx(0.0)
    assert "majority" not in found["ece_before"]["baselines"]
    assert record["labels"] == ["a", "b", "c", NOTHING]
    assert record["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    recall = by_name(record["by_label"])
    assert [recall[name]["model"]["value"] for name in "abc"] == [0.5, 1.0, 0.0]
    assert sum(record["reliability"]["count"]) == 3
    assert "deduplicated" not in record


def test_figures_without_what_training_has() -> None:
    gold = ["a", "b", "a"]
    systems = {MODEL: [Guess("a"), Guess("a"), Guess("a")]}
    record = scores(Labels(), gold, systems, np.array([True, True, False]), draws=50)
    fewer = record["deduplicated"]
    assert fewer["items"] == 2
    assert by_name(fewer["figures"])["accuracy"]["model"]["value"] == 0.5
    assert "deduplicated" not in scores(Labels(), gold, systems, np.array([True] * 3), draws=50)


def test_spans_as_by_hand() -> None:
    gold = [((0, 4, "PER"), (10, 15, "LOC")), (), ((3, 5, "PER"),)]
    model = [Guess(((0, 4, "PER"), (10, 14, "LOC"))), Guess(()), Guess(None)]
    record = scores(Spans(), gold, {MODEL: model}, draws=200)
    found = by_name(record["figures"])
    assert found["precision"]["model"]["value"] == 1 / 2
    assert found["recall"]["model"]["value"] == 1 / 3
    assert found["f1"]["model"]["value"] == pytest.approx(2 / 5)
    assert Spans().quality(gold, model).tolist() == [0.5, 1.0, 0.0]
    assert by_name(record["by_label"])["PER"]["model"]["value"] == pytest.approx(2 / 3)
    assert record["spans"]["LOC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert "best_baseline" not in found["f1"]


def test_answers_take_the_script_of_the_question_and_the_best_gold_answer() -> None:
    gold = [
        Question("Who?", ("the red fox", "a fox")),
        Question("谁？", ("红狐狸",)),
        Question("When?", ()),
        Question("Where?", ("Rome",)),
    ]
    guesses = [Guess("Fox"), Guess("狐狸"), Guess(""), Guess(None)]
    record = scores(Answers(), gold, {MODEL: guesses}, draws=50)
    found = by_name(record["figures"])
    assert found["exact"]["model"]["value"] == (1 + 0 + 1 + 0) / 4
    # Longest common stretch 2 of 3 and 2 characters: 2 * 2 / 5.
    assert found["f1"]["model"]["value"] == pytest.approx((1 + 0.8 + 1 + 0) / 4)
    assert record["chinese"] == 1 and record["unanswerable"] == 1


def test_translations_as_sacrebleu_says() -> None:
    gold = ["the cat sat on the mat", "a dog ran", "it rains today here"]
    found = ["the cat sat on a mat", "a dog ran", "It rains today"]
    record = scores(
        Translations(), gold, {MODEL: [Guess(one) for one in found], "copy": [Guess("x")] * 3}, draws=50
    )
    rows = by_name(record["figures"])
    assert rows["bleu"]["model"]["value"] == pytest.approx(translation.bleu(found, gold).score)
    assert rows["chrf++"]["model"]["value"] == pytest.approx(translation.chrf(found, gold).score)
    lower = translation.bleu(found, gold, lowercase=True).score
    assert rows["bleu_lowercase"]["model"]["value"] == pytest.approx(lower)
    assert rows["bleu"]["model"]["low"] <= rows["bleu"]["model"]["value"] <= rows["bleu"]["model"]["high"]
    assert rows["bleu"]["unit"] == "points" and "tok:13a" in record["signatures"]["bleu"]
    assert rows["bleu"]["model_minus_best"]["difference"]["value"] > 10


def test_summaries_of_both_scripts() -> None:
    record = scores(Summaries("zh"), ["天气好"], {MODEL: [Guess("天气")]}, draws=20)
    rows = by_name(record["figures"])
    assert rows["rouge1"]["model"]["value"] == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert rows["rouge2"]["model"]["value"] == pytest.approx(2 * 1 * 0.5 / 1.5)
    record = scores(Summaries("en"), ["cats sleep"], {MODEL: [Guess(None)]}, draws=20)
    assert by_name(record["figures"])["rougeL"]["model"]["value"] == 0


def test_an_interval_covers_and_pairs_take_the_same_items() -> None:
    generator = np.random.default_rng(0)
    hits = (generator.random(400) < 0.7).astype(np.float64)
    fewer = hits.copy()
    fewer[:40] = 0
    rows = standing({MODEL: [mean("accuracy", hits)], "other": [mean("accuracy", fewer)]}, draws=1000)
    one = rows[0]["model"]
    half = 1.96 * np.sqrt(hits.var() / 400)
    assert one["low"] == pytest.approx(hits.mean() - half, abs=0.01)
    assert one["high"] == pytest.approx(hits.mean() + half, abs=0.01)
    # Always at least as good on every item, so no draw can say otherwise.
    assert rows[0]["model_minus_best"]["difference"]["low"] >= 0
    assert rows[0]["model_minus_best"]["first_lower"] == 0
    nothing = standing({MODEL: [quotient("f1", np.zeros(3), np.zeros(3))]}, draws=10)
    assert nothing[0]["model"]["value"] == 0


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(DataError, match="2 gold answers got 1 of model"):
        scores(Labels(), ["a", "b"], {MODEL: [Guess("a")]})
    with pytest.raises(DataError, match="0 gold answers"):
        scores(Labels(), [], {MODEL: []})
    with pytest.raises(DataError, match="equal lists"):
        standing({MODEL: [mean("a", np.ones(2))], "b": [mean("a", np.ones(3))]})
