"""Baselines in the one trainer: they learn a task to the end, resume exactly, and are opened again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_session import StopAt, losses, train, weights
from tests.labelled_sets import data, records

import weft
from weft.checkpoint.huggingface import load_any
from weft.checkpoint.kinds import KINDS
from weft.core import config
from weft.core.errors import ConfigError, Interrupted
from weft.models.baseline import Baseline
from weft.models.baseline_config import BASELINES, KERNEL_SIZES, BaselineConfig
from weft.tokenizer import Tokenizer
from weft.train.config import OptimizerSection, TrainRun
from weft.train.optim import Optimizer

SMALL = (
    "data.sequence_length=64", "model.hidden_size=48", "model.dropout=0.1", "train.batch_tokens=512",
    "train.micro_rows=4", "train.save_steps=4", "train.validate_steps=20", "train.device=cpu",
    "train.arithmetic=fp32",
)  # fmt: skip

OBJECTIVES = {"sequence": "classify", "token": "tag", "span": "span"}
LABELLED = [name for name, (_, head) in BASELINES.items() if head in OBJECTIVES]


def made(folder: Path, architecture: str, steps: int, *more: str) -> TrainRun:
    name = OBJECTIVES[BASELINES[architecture][1]] if architecture in LABELLED else "classify"
    fixed = (f"data.path={folder}", f"objective.name={name}", f"model.architecture={architecture}")
    return config.load(TrainRun, None, [*fixed, *SMALL, f"train.steps={steps}", *more])


FAST = ("WeftLstmForSequenceClassification", "WeftCnnForTokenClassification")
EACH = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in LABELLED]
"""One of each kind in every run of the tests, all of them in the slow one."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled data by what stands on top of the model that learns it."""
    out = tmp_path_factory.mktemp("labelled")
    return {head: data(form, out / form, vocab_size=320) for head, form in OBJECTIVES.items()}


def last(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return record


def check_answers(run: TrainRun, folder: Path) -> None:
    train(run, folder)
    model = weft.load(folder)
    rows = records("span")[:40]
    found = [model.answer(row["question"], row["context"]) for row in rows]
    wanted = [row["answers"][0]["text"] if row["answers"] else "" for row in rows]
    assert sum(one.text == right for one, right in zip(found, wanted, strict=True) if right) > 24
    assert all(row["context"][one.start : one.end] == one.text for one, row in zip(found, rows, strict=True))


@pytest.mark.parametrize("architecture", EACH)
def test_the_task_is_learnt_and_the_model_is_opened(
    architecture: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    if "Question" in architecture:
        return check_answers(made(folders["span"], architecture, 80, "train.micro_rows=8"), tmp_path / "run")
    train(made(folders[BASELINES[architecture][1]], architecture, 60), tmp_path / "run")
    assert last(tmp_path / "run")["validation_accuracy"] > 0.95
    if "Token" in architecture:
        assert last(tmp_path / "run")["validation_f1"] > 0.9
    model = load_any(tmp_path / "run")
    assert isinstance(model, Baseline) and model.config.architecture == architecture
    assert model.config.vocab_size == 320 and model.config.max_position_embeddings == 64
    ready = weft.load(tmp_path / "run")
    if model.config.head == "sequence":
        assert ready.classify(["我们 喜欢 了 今天", "the bad and very"]) == ["正面", "负面"]
    else:
        found = ready.find_entities("今天 真的 小明 了 the Rome and 那个")
        assert [(one.text, one.label) for one in found] == [("小明", "人名"), ("Rome", "地名")]


@pytest.mark.parametrize("architecture", EACH)
def test_interrupted_and_continued_is_bit_identical(
    architecture: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    crf = ("model.crf=true",) if "Token" in architecture else ()
    run = made(
        folders[BASELINES[architecture][1]],
        architecture,
        10,
        "model.num_hidden_layers=2",
        "train.ema=0.9",
        *crf,
    )
    train(run, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(run, tmp_path / "parts", hooks=[StopAt(6)])
    train(run, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_crf_learns_the_labels_of_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    run = made(folders["token"], "WeftLstmForTokenClassification", 60, "model.crf=true")
    train(run, tmp_path / "run")
    model = load_any(tmp_path / "run")
    assert model.crf is not None and bool(model.crf.transitions.abs().sum() > 0)
    assert last(tmp_path / "run")["validation_accuracy"] > 0.95


def test_bf16_learns_as_well(folders: dict[str, Path], tmp_path: Path) -> None:
    for architecture in ("WeftGruForSequenceClassification", "WeftCnnForSequenceClassification"):
        run = made(folders["sequence"], architecture, 60, "train.arithmetic=bf16")
        assert run.train.arithmetic == "bf16"
        train(run, tmp_path / architecture)
        assert last(tmp_path / architecture)["validation_accuracy"] > 0.95


@pytest.mark.slow
def test_a_budget_is_enough(folders: dict[str, Path], tmp_path: Path) -> None:
    fixed = [f"data.path={folders['sequence']}", "objective.name=classify", "train.budget=6s"]
    shape = ["model.architecture=WeftCnnForSequenceClassification", *SMALL]
    train(config.load(TrainRun, None, [*fixed, *shape]), tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


def test_what_was_learnt_is_a_start(folders: dict[str, Path], tmp_path: Path) -> None:
    name = "WeftGruForTokenClassification"
    train(made(folders["token"], name, 4), tmp_path / "base")
    again = [s for s in SMALL if not s.startswith("model.hidden_size")]
    fixed = [f"data.path={folders['sequence']}", "objective.name=classify", "train.steps=1", *again]
    more = [f"model.start={tmp_path / 'base'}", "optimizer.learning_rate=1e-12"]
    wanted = "model.architecture=WeftGruForSequenceClassification"
    train(config.load(TrainRun, None, [*fixed, *more, wanted]), tmp_path / "next")
    before, after = (dict(load_any(tmp_path / n).named_parameters()) for n in ("base", "next"))
    assert torch.allclose(before["rnn.weight_hh_l0"], after["rnn.weight_hh_l0"], atol=1e-6)
    assert before["classifier.weight"].shape != after["classifier.weight"].shape
    for architecture in ("WeftLstmForSequenceClassification", "Qwen3ForCausalLM"):
        run = config.load(TrainRun, None, [*fixed, *more, f"model.architecture={architecture}"])
        with pytest.raises(ConfigError, match="holds a WeftGruForTokenClassification"):
            train(run, tmp_path / architecture)


def test_a_reader_starts_with_the_embeddings_of_another_network(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    train(made(folders["token"], "WeftLstmForTokenClassification", 4), tmp_path / "base")
    data_of_both = ("data.sequence_length=80", "optimizer.learning_rate=1e-12", "train.steps=1")
    sizes = [s for s in SMALL if not s.startswith(("model.hidden_size", "data.sequence"))]
    fixed = [f"data.path={folders['span']}", "objective.name=span", *sizes, *data_of_both]
    wanted = "model.architecture=WeftLstmForQuestionAnswering"
    start = f"model.start={tmp_path / 'base'}"
    train(config.load(TrainRun, None, [*fixed, wanted, start]), tmp_path / "next")
    before, after = load_any(tmp_path / "base"), load_any(tmp_path / "next")
    assert torch.allclose(before.embedding.weight, after.embedding.weight, atol=1e-6)
    separator = Tokenizer.load(folders["span"] / "tokenizer").eos_id
    assert after.config.sep_token_id == separator and after.config.max_position_embeddings == 80
    back = ["model.architecture=WeftLstmForTokenClassification", f"model.start={tmp_path / 'next'}"]
    again = [s for s in fixed if not s.startswith(("data.path", "objective"))]
    tag = [f"data.path={folders['token']}", "objective.name=tag"]
    train(config.load(TrainRun, None, [*again, *tag, *back]), tmp_path / "last")
    assert load_any(tmp_path / "last").config.sep_token_id is None


@pytest.mark.parametrize("architecture", LABELLED)
def test_muon_is_for_other_models(architecture: str) -> None:
    kernels = KERNEL_SIZES if "Cnn" in architecture else ()
    separator = 0 if "Question" in architecture else None
    shape = BaselineConfig(50, 32, 1, architecture, ("a", "b"), kernels, sep_token_id=separator)
    model = KINDS[architecture].build(shape)
    parts = Optimizer(model, OptimizerSection(name="muon"), 0.01).parts
    assert list(parts) == ["adamw"]
    decays = {
        parameter.ndim > 1: group["weight_decay"]
        for group in parts["adamw"].param_groups
        for parameter in group["params"]
    }
    assert decays == {True: 0.1, False: 0.0}


@pytest.mark.parametrize(
    ("architecture", "settings", "said"),
    [
        ("WeftLstmForTokenClassification", (), "not a WeftLstmForTokenClassification"),
        ("WeftLstmForSequenceClassificatoin", (), "or a WeftLstmForSequenceClassification or WeftGru"),
        ("WeftLstmForSequenceClassification", ("model.crf=true",), "crf = true stands on labels of tokens"),
        ("WeftGruForSequenceClassification", ("model.num_attention_heads=2",), r"model\.num_attention_heads"),
        ("WeftCnnForSequenceClassification", ("model.intermediate_size=8",), r"model\.intermediate_size"),
        ("WeftGruForSequenceClassification", ("model.hidden_size=33",), "hidden_size = 33 must be even"),
        ("WeftCnnForSequenceClassification", ("model.dropout=1.0",), "dropout = 1.0"),
        ("WeftCnnForSequenceClassification", ("lora.rank=4",), r"lora\.rank is for decoders"),
        ("WeftCnnForSequenceClassification", ("optimizer.base_width=64",), r"optimizer\.base_width is for"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    architecture: str, settings: tuple[str, ...], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(
            made(folders["sequence"], architecture, 2, "objective.name=classify", *settings), tmp_path / "run"
        )


def test_spans_and_plain_text_are_for_encoders(folders: dict[str, Path], tmp_path: Path) -> None:
    out = data("span", tmp_path / "span", vocab_size=320)
    run = made(out, "WeftLstmForTokenClassification", 2, "objective.name=span")
    said = "trains a ModernBertForQuestionAnswering, or a WeftLstmForQuestionAnswering or WeftGruForQuestion"
    with pytest.raises(ConfigError, match=said):
        train(run, tmp_path / "run")
