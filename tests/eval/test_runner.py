"""The whole evaluation on a small data folder, from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from weft.checkpoint.huggingface import save_model
from weft.cli.eval_ import command
from weft.core.errors import CheckpointError, DataError
from weft.eval.protocol import GenerateRequest, Generation
from weft.eval.runner import EvalConfig, evaluate
from weft.models import Decoder
from weft.tokenizer import Tokenizer, train


def perfect(requests: Sequence[GenerateRequest]) -> list[Generation]:
    return [Generation("    return 1", True) for _ in requests]


def test_the_record_holds_model_and_baselines(
    data_folder: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    said: list[str] = []
    config = EvalConfig(prompts=6, max_new_tokens=30)
    record = evaluate(tiny_decoder(), tiny_tokenizer, data_folder, perfect, config, said.append)
    json.dumps(record)
    bits = record["bits_per_byte"]
    assert all(found["low"] <= found["value"] <= found["high"] for found in bits.values())
    assert bits["lzma"]["value"] < bits["ngram"]["value"] < 1.5 < bits["model"]["value"], "untrained model"
    assert record["model_minus"]["lzma"]["first_lower"] == 0.0
    assert record["parse"]["model"]["value"] == 1.0
    assert record["parse"]["functions"] == 6
    assert 0 <= record["parse"]["ngram"]["value"] <= 1
    assert record["settings"]["overlap"] == 64
    assert record["settings"]["baseline_train_documents"] == 60
    assert said
    again = evaluate(tiny_decoder(), tiny_tokenizer, data_folder, perfect, config)
    assert {**record, "seconds": None} == {**again, "seconds": None}


def test_baselines_learn_from_a_limited_part(
    data_folder: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    record = evaluate(tiny_decoder(), tiny_tokenizer, data_folder, config=EvalConfig(train_bytes=2000))
    assert 0 < record["settings"]["baseline_train_bytes"] <= 2000
    assert record["parse"] is None


def test_data_and_model_must_fit(
    data_folder: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="another tokenizer"):
        evaluate(tiny_decoder(), train(["other text 其他"] * 9, 512), data_folder)
    with pytest.raises(CheckpointError, match="only 384"):
        evaluate(tiny_decoder(vocab_size=384), tiny_tokenizer, data_folder)
    with pytest.raises(DataError, match="weft data"):
        evaluate(tiny_decoder(), tiny_tokenizer, tmp_path)
    with pytest.raises(DataError, match="no split"):
        evaluate(tiny_decoder(), tiny_tokenizer, data_folder, config=EvalConfig(split="dev"))


def test_the_verb(
    data_folder: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", tiny_decoder(), tiny_tokenizer)
    arguments = [
        str(tmp_path / "model"),
        "--data",
        str(data_folder),
        "--prompts",
        "3",
        "--max-new-tokens",
        "9",
    ]
    result = CliRunner().invoke(command, [*arguments, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    assert "bits per byte on test" in result.stderr
    assert "LZMA" in result.stderr
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert record["parse"]["functions"] == 3
    for wrong, code, word in (
        (arguments[:1], 2, "--data"),
        ([*arguments, "--prompts", "-1"], 2, "at least 0"),
        ([str(tmp_path / "absent"), *arguments[1:]], 1, "absent"),
    ):
        result = CliRunner().invoke(command, wrong)
        assert (result.exit_code, "Traceback" in result.output) == (code, False)
        assert word in result.stderr
