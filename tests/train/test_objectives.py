"""Every objective that is not a decoder's, in the one trainer: it learns, resumes exactly, and is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_session import StopAt, losses, train, weights
from tests.labelled_sets import data, records

import weft
from weft.checkpoint.huggingface import load_any
from weft.core import config
from weft.core.errors import ConfigError, DataError, Interrupted, UsageError
from weft.data import supervised
from weft.data.batch import IGNORED
from weft.data.config import DataConfig
from weft.data.forms.tag import spans_of
from weft.data.prepare import prepare
from weft.eval.metrics.spans import span_figures
from weft.ops.both_ways import BothWays
from weft.ops.crf import best, viterbi
from weft.parallel.rows import SeenRows
from weft.tasks.tag import legal
from weft.tokenizer import Tokenizer
from weft.train.config import TrainRun
from weft.train.objectives.tag import Tag

SMALL = (
    "data.sequence_length=64", "model.hidden_size=64", "model.num_hidden_layers=2",
    "model.num_attention_heads=2", "model.dropout=0.1", "train.batch_tokens=1024", "train.micro_rows=8",
    "train.save_steps=4", "train.validate_steps=6", "train.device=cpu", "train.arithmetic=fp32",
)  # fmt: skip


def made(folder: Path, name: str, steps: int, *more: str) -> TrainRun:
    return config.load(
        TrainRun,
        None,
        [f"data.path={folder}", f"objective.name={name}", *SMALL, f"train.steps={steps}", *more],
    )


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    lines = [json.dumps({"text": record["text"] * 8}, ensure_ascii=False) for record in records("tag")]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    chosen = config.load(
        DataConfig, None, ["tokenizer.vocab_size=512", "tokenizer.encoder=true", "split.valid=0.1"]
    )
    prepare(chosen, [folder / "texts.jsonl"], folder / "data")
    return folder / "data"


def learnt_and_resumed(run: TrainRun, folder: Path) -> None:
    """The loss falls, and a run that was stopped in the middle is the same to the bit."""
    train(run, folder / "whole")
    found = losses(folder / "whole")
    assert found[-1] < 0.8 * found[0]
    with pytest.raises(Interrupted):
        train(run, folder / "parts", hooks=[StopAt(6)])
    train(run, folder / "parts")
    assert losses(folder / "parts") == found
    assert weights(folder / "parts") == weights(folder / "whole")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("span", "pairs")]


@pytest.mark.parametrize("name", ["classify", "tag", *SLOW])
def test_labels_and_pairs_are_learnt_and_resume_is_exact(name: str, tmp_path: Path) -> None:
    learnt_and_resumed(made(data(name, tmp_path), name, 12), tmp_path)


def test_sentiment_is_said_in_the_words_of_the_labels(tmp_path: Path) -> None:
    folder = data("classify", tmp_path)
    run = made(folder, "classify", 60, "objective.task=sentiment", "train.best=validation_accuracy")
    train(run, tmp_path / "run")
    model = weft.load(tmp_path / "run")
    answers = model.analyze_sentiment(["我们 喜欢 了 今天", "the bad and very"])
    assert answers == ["正面", "负面"]
    assert all(0.5 < one.score <= 1.0 and abs(sum(one.scores.values()) - 1) < 1e-6 for one in answers)
    assert model.analyze_sentiment("我们 喜欢 了 今天") == "正面" == model.classify("我们 喜欢 了 今天")
    with pytest.raises(UsageError, match=r"not trained for translate.*weft data supervised.*weft train"):
        model.translate("x", "zh")
    with pytest.raises(UsageError, match="Text 1 is empty"):
        model.classify(["好", " "])
    with pytest.raises(UsageError, match="tokens and this model reads 1 to 64"):
        model.classify("好 " * 200)


@pytest.mark.parametrize("crf", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_entities_come_with_their_places(crf: str, tmp_path: Path) -> None:
    run = made(data("tag", tmp_path), "tag", 60, f"model.crf={crf}")
    train(run, tmp_path / "run")
    text = "今天 真的 小明 了 the Rome and 上海 那个"
    found = weft.load(tmp_path / "run").find_entities(text)
    assert [(one.text, one.label) for one in found] == [("小明", "人名"), ("Rome", "地名"), ("上海", "地名")]
    assert all(text[one.start : one.end] == one.text and 0 < one.score <= 1 for one in found)


@pytest.mark.slow
def test_answers_are_spans_or_not_found(tmp_path: Path) -> None:
    run = made(data("span", tmp_path), "span", 120, "train.best=validation_loss")
    train(run, tmp_path / "run")
    model = weft.load(tmp_path / "run")
    rows = [record for record in records("span") if record["answers"]][:40]
    found = [model.answer(row["question"], row["context"]) for row in rows]
    right = sum(one.text == row["answers"][0]["text"] for one, row in zip(found, rows, strict=True))
    assert right > 30
    assert all(row["context"][one.start : one.end] == one.text for one, row in zip(found, rows, strict=True))


@pytest.mark.slow
def test_pairs_are_translated_both_ways(tmp_path: Path) -> None:
    folder = data("pairs", tmp_path, languages=("de", "zh"), both_ways=True)
    run = made(folder, "pairs", 100, "model.dropout=0.0")
    train(run, tmp_path / "run")
    model = weft.load(tmp_path / "run")
    answer = model.translate("1 2 3", "zh", alternatives=2)
    assert isinstance(answer, str) and 0 < answer.score <= 1 and len(answer.alternatives) == 1
    with pytest.raises(UsageError, match="This model writes de and zh, not fr"):
        model.translate("1 2", target_language="fr")
    with pytest.raises(UsageError, match="Say target_language"):
        model.translate("1 2")


@pytest.mark.parametrize(
    ("name", "architecture"), [("masked", "ModernBertForMaskedLM"), ("corrupt", "T5ForConditionalGeneration")]
)
def test_plain_text_trains_encoders_too(
    name: str, architecture: str, text_folder: Path, tmp_path: Path
) -> None:
    train(made(text_folder, name, 12), tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    assert load_any(tmp_path / "run").config.architecture == architecture


def test_a_tagger_starts_from_a_masked_model(text_folder: Path, tmp_path: Path) -> None:
    train(made(text_folder, "masked", 6), tmp_path / "base")
    folder = tmp_path / "tag"
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records("tag")), encoding="utf-8")
    chosen = supervised.SupervisedConfig(form="tag")
    supervised.prepare([file], Tokenizer.load(text_folder / "tokenizer"), folder, chosen)
    sizes = ("model.hidden_size=64", "model.num_hidden_layers=2", "model.num_attention_heads=2")
    run = config.load(
        TrainRun, None,
        [f"data.path={folder}", "objective.name=tag", *(s for s in SMALL if s not in sizes),
         "train.steps=1", f"model.start={tmp_path / 'base'}", "optimizer.learning_rate=1e-12"],
    )  # fmt: skip
    train(run, tmp_path / "run")
    base, tagger = (dict(load_any(tmp_path / n).named_parameters()) for n in ("base", "run"))
    assert torch.allclose(
        base["blocks.0.attention.qkv.weight"], tagger["blocks.0.attention.qkv.weight"], atol=1e-6
    )
    assert "classifier.weight" in tagger and "classifier.weight" not in base


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("model.architecture=LlamaForCausalLM",), "trains a ModernBertForSequenceClassification"),
        (("objective.task=roles",), "trains classification or sentiment, not roles"),
        (("lora.rank=4",), r"lora\.rank is for decoders"),
        (("train.patience=2",), r"train\.patience needs train\.best"),
        (("train.epochs=2",), r"train\.epochs sets the length"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        train(made(data("classify", tmp_path), "classify", 2, *settings), tmp_path / "run")


def test_data_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds tag, and objective\.name = classify"):
        train(made(data("tag", tmp_path), "classify", 2), tmp_path / "run")


def test_a_run_that_gets_no_better_ends_early(tmp_path: Path) -> None:
    more: Any = ("train.best=validation_accuracy", "train.patience=2", "train.validate_steps=5")
    short = tuple(s for s in SMALL if not s.startswith("train.validate_steps"))
    run = config.load(
        TrainRun, None,
        [f"data.path={data('classify', tmp_path)}", "objective.name=classify", *short, "train.steps=200",
         *more],
    )  # fmt: skip
    train(run, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) < 200
    model = weft.load(tmp_path / "run")
    rows = records("classify")
    right = sum(model.classify(row["text"]) == row["label"] for row in rows)
    assert right / len(rows) > 0.95


LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


class Said:
    """A model whose scores are what a test says."""

    training, crf = False, None

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores, self.config = scores, SimpleNamespace(labels=LABELS)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.scores


def test_spans_of_validation_are_those_of_the_answers() -> None:
    """F1 over packed rows is the strict F1 of the spans that legal sequences of labels say."""
    generator = torch.Generator().manual_seed(0)
    start = torch.tensor([[0] * 9 + [9] * 6 + [15], [0] * 5 + [5] * 11], dtype=torch.int32)
    context = BothWays(start)
    scores = 2 * torch.randn(2, 16, len(LABELS), generator=generator)
    noise = scores + torch.randn(scores.shape, generator=generator)
    parts = [torch.tensor(part, dtype=torch.float32) for part in legal(LABELS)]
    gold = best(noise, start, (parts[0], parts[1], parts[2]))
    gold[0, 15] = IGNORED
    objective = Tag(spans=True)
    objective.score(Said(scores), scores, SeenRows(scores[..., 0].long(), gold, context), 1.0)
    sums = objective.figures()
    spans: dict[str, list[list[tuple[int, int, str]]]] = {"found": [], "gold": []}
    for row, a, b in ((0, 0, 9), (0, 9, 15), (1, 0, 5), (1, 5, 16)):
        answer = viterbi(scores[row, a:b].log_softmax(-1), (parts[0], parts[1], parts[2]))
        for name, classes in (("found", answer), ("gold", gold[row, a:b].tolist())):
            places = [(place, place + 1) for place in range(b - a)]
            spans[name].append(spans_of([LABELS[number] for number in classes], places))
    expected = span_figures(spans["gold"], spans["found"])
    assert 0.2 < expected.f1 < 0.9
    assert objective.recorded(sums, 31)["validation_f1"] == pytest.approx(expected.f1)
    assert objective.figures() == {"validation_accuracy": 0, "hits": 0, "found": 0, "gold": 0}


def test_what_has_no_spans_has_no_f1(tmp_path: Path) -> None:
    run = made(data("classify", tmp_path), "classify", 2, "train.best=validation_f1")
    with pytest.raises(ConfigError, match="has no spans, whose F1"):
        train(run, tmp_path / "run")
