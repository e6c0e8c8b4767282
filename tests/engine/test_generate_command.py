"""weft generate, run as people run it but in this process."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from lora import write
from weft.api import load
from weft.checkpoint.huggingface import save_model
from weft.cli.generate import command
from weft.engine.runner import best_dtype
from weft.models.encdec import EncoderDecoder
from weft.models.encdec_config import EncoderDecoderConfig
from weft.ops.kernels import decoder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_decoder, tiny_tokenizer) -> str:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save_model(folder, tiny_decoder(), tiny_tokenizer)
    return str(folder)


def run(*arguments: str, text: str | bytes | None = None):
    return CliRunner().invoke(command, [*arguments, "--dtype", "float32"], input=text)


def test_one_sample_is_streamed_and_recorded(checkpoint, tmp_path):
    file = tmp_path / "record.json"
    ended = run(checkpoint, "--prompt", "今天", "--max-new-tokens", "12", "--seed", "1", "--json", str(file))
    assert ended.exit_code == 0, ended.output
    record = json.loads(file.read_text())
    assert ended.stdout == "今天" + record["samples"][0]["text"] + "\n"
    assert record["tokens"] == record["samples"][0]["tokens"] <= 12
    assert record["tokens_per_second"] > 0


def test_a_message_is_answered_as_in_a_chat(checkpoint):
    ended = run(
        checkpoint, "--chat", "--prompt", "今天", "--max-new-tokens", "8", "--seed", "1", "--json", "-"
    )
    assert ended.exit_code == 0, ended.output
    record = json.loads(ended.stdout)
    model = load(checkpoint, "float32")
    answer = model.chat([{"role": "user", "content": "今天"}], max_new_tokens=8, seed=1, temperature=0.8)
    assert record["samples"][0]["text"] == answer
    assert record["prompt_tokens"] == len(model.llm.encode_chat([{"role": "user", "content": "今天"}]))
    assert ended.stderr == f"今天\n\n{answer}\n"


@pytest.mark.parametrize("name", ["bfloat16", "int8", "int4"])
def test_weights_of_each_format_write_a_text(checkpoint, name):
    options = (checkpoint, "--prompt", "今天", "--max-new-tokens", "6", "--temperature", "0", "--json", "-")
    ended = CliRunner().invoke(command, [*options, "--dtype", name])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["tokens"] <= 6


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_the_first_layers_guess_and_change_nothing(checkpoint, name):
    options = (checkpoint, "--prompt", "今天", "--max-new-tokens", "20", "--temperature", "0", "--json", "-")
    texts = []
    for more in ((), ("--draft-layers", "1"), ("--no-speculate",)):
        ended = CliRunner().invoke(command, [*options, "--dtype", name, *more])
        assert ended.exit_code == 0, ended.output
        texts.append(json.loads(ended.stdout)["samples"])
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--draft-layers", "2"), "The first 2 of 2 layers"),
        (("--draft-layers", "0"), "The first 0 of 2 layers"),
        (("--draft-layers", "1", "--draft", "x"), "leave one of the two out"),
        (("--draft-layers", "1", "--no-speculate"), "without speculation would do nothing"),
    ],
)
def test_layers_that_cannot_guess(checkpoint, options, message):
    ended = run(checkpoint, "--prompt", "a", *options)
    assert ended.exit_code == 2 and message in ended.output


def test_an_adapter_is_said_to_run_in_its_own_format(checkpoint, tmp_path):
    write(tmp_path / "a", 1)
    options = (checkpoint, "--prompt", "a", "--max-new-tokens", "2", "--dtype", "int8", "--json", "-")
    ended = CliRunner().invoke(command, [*options, "--adapter", str(tmp_path / "a"), "--verbose"])
    assert ended.exit_code == 0, ended.output
    work = best_dtype(torch.device("cpu"))
    assert json.loads(ended.stdout)["weights"]["format"] == str(work).removeprefix("torch.")


def test_formats_chosen_by_measurement_are_said(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("weft.engine.weights.figures_file", lambda: tmp_path / "figures.json")
    options = (checkpoint, "--prompt", "今天", "--max-new-tokens", "6", "--dtype", "auto-int8", "--json", "-")
    ended = CliRunner().invoke(command, [*options, "--verbose"])
    assert ended.exit_code == 0, ended.output
    record = json.loads(ended.stdout)
    assert set(record["weights"]["format"].split("+")) <= {"float32", "bfloat16", "int8"}
    assert f"weights: {record['weights']['format']}" in ended.stderr
    for line in record["weights"]["choices"]:
        assert " rows: " in line and line in ended.stderr
    if decoder() is not None:
        assert len(record["weights"]["choices"]) == 5 and (tmp_path / "figures.json").exists()


def test_several_samples_differ_and_the_first_is_that_of_one(checkpoint):
    options = (checkpoint, "--prompt", "a", "--max-new-tokens", "12", "--seed", "1", "--json", "-")
    five = json.loads(run(*options, "--num-samples", "5").stdout)
    one = json.loads(run(*options).stdout)
    assert len({sample["text"] for sample in five["samples"]}) == 5
    assert five["samples"][0] == one["samples"][0]


def test_prompts_from_a_file_and_from_standard_input(checkpoint, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("天气", encoding="utf-8")
    settings = ("--seed", "3", "--max-new-tokens", "8")
    from_file = run(checkpoint, "--prompt-file", str(file), *settings)
    from_input = run(checkpoint, *settings, text="天气")
    assert from_file.exit_code == 0
    assert from_file.stdout == from_input.stdout == run(checkpoint, "--prompt", "天气", *settings).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt", "a", "--temperature", "-1"], 2, "temperature"),
        (["--prompt", "a", "--temperature", "nan"], 2, "temperature"),
        (["--prompt", "a", "--num-samples", "0"], 2, "num-samples"),
        (["--prompt", "a", "--max-new-tokens", "0"], 2, "max_tokens"),
        (["--prompt", "a", "--prompt-file", "b"], 2, "not both"),
        (["--prompt-file", "nowhere.txt"], 2, "nowhere.txt"),
        (["--prompt", "word " * 500], 2, "context holds 128"),
        (["--prompt", "a", "--dtype", "int2"], 2, "dtype"),
        (["--prompt", "a", "--stop", ""], 2, "stop"),
    ],
)
def test_mistakes_are_one_sentence(checkpoint, arguments, code, message):
    ended = CliRunner().invoke(command, [checkpoint, *arguments])
    assert ended.exit_code == code
    assert message in ended.stderr and ended.stderr.count("\n") == 1


def test_standard_input_that_is_not_text(checkpoint):
    ended = run(checkpoint, text=b"\xff\xfe\x00\x81")
    assert ended.exit_code == 2 and "not UTF-8" in ended.stderr


def test_a_missing_checkpoint(tmp_path):
    ended = run(str(tmp_path / "nowhere"), "--prompt", "a")
    assert ended.exit_code == 1 and "nowhere" in ended.stderr


def test_a_model_that_continues_no_prompt(tmp_path, tiny_tokenizer):
    config = EncoderDecoderConfig(
        vocab_size=512, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2
    )
    save_model(tmp_path / "model", EncoderDecoder(config), tiny_tokenizer)
    ended = run(str(tmp_path / "model"), "--prompt", "a")
    assert ended.exit_code == 2 and "continues no prompt" in ended.stderr, ended.output
