"""weft export and weft import: what is written, its lineage, and what is never deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from weft.checkpoint.huggingface import load_model, save_model
from weft.cli.main import main
from weft.core import manifest
from weft.core.files import hash_file
from weft.models import Decoder
from weft.tokenizer import Tokenizer

GENERATION = {"eos_token_id": [5, 0], "temperature": 0.7}


@pytest.fixture
def run_folder(tmp_path: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    save_model(run / "model", tiny_decoder(), tiny_tokenizer, generation=GENERATION)
    manifest.write(run, command="train", config="", inputs={"data": "abc"}, figures={})
    return run


def weft(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def record(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_weights_may_be_read_by_whom_all_else_may(run_folder: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in (run_folder / "model").iterdir()}
    assert set(modes.values()) == {modes["config.json"]}, modes


def test_export_writes_dtype_shards_and_lineage(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--dtype", "bfloat16", "--shard-size", "20kB", "--json", "-")
    result = record(weft("export", run_folder, "--out", out, *options))
    source, model = load_model(run_folder), load_model(out)
    assert model.embedding.weight.dtype == torch.bfloat16
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.bfloat16()), name
    assert len(list(out.glob("*.safetensors"))) > 1

    lineage = manifest.read(out)
    assert lineage == result["manifest"]
    assert lineage["inputs"]["model.safetensors"] == hash_file(run_folder / "model" / "model.safetensors")
    assert lineage["inputs"]["run/manifest.json"] == hash_file(run_folder / "manifest.json")
    written = {file.name for file in out.iterdir()} - {"manifest.json"}
    assert set(lineage["outputs"]) == written
    assert all(hash_file(out / name) == digest for name, digest in lineage["outputs"].items())
    assert lineage["figures"]["parameters"] == sum(p.numel() for p in source.parameters())


def test_tokenizer_and_generation_config_travel(
    run_folder: Path, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    record(weft("export", run_folder / "model", "--out", tmp_path / "a", "--json", "-"))
    record(weft("import", tmp_path / "a", "--out", tmp_path / "b", "--json", "-"))
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert Tokenizer.load(folder).fingerprint == tiny_tokenizer.fingerprint
        assert json.loads((folder / "generation_config.json").read_text()) == GENERATION
        assert json.loads((folder / "config.json").read_text())["eos_token_id"] == [5, 0]
    first, second = load_model(run_folder).state_dict(), load_model(tmp_path / "b").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    lineage = manifest.read(tmp_path / "b")
    assert lineage is not None
    assert lineage["inputs"]["manifest.json"] == hash_file(tmp_path / "a" / "manifest.json")


def test_the_end_of_text_comes_from_the_tokenizer(
    tmp_path: Path, tiny_decoder: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    save_model(tmp_path / "model", tiny_decoder(), tiny_tokenizer)
    generation = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tiny_tokenizer.eos_id


def test_a_repeated_export_does_nothing_and_a_changed_one_replaces(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record(weft("export", run_folder, "--out", out, "--json", "-"))
    before = (out / "config.json").stat().st_ino
    record(weft("export", run_folder, "--out", out, "--json", "-"))
    assert (out / "config.json").stat().st_ino == before
    record(weft("export", run_folder, "--out", out, "--dtype", "float16", "--json", "-"))
    assert load_model(out).embedding.weight.dtype == torch.float16


def test_import_without_a_tokenizer_says_so(tmp_path: Path, tiny_decoder: Callable[..., Decoder]) -> None:
    save_model(tmp_path / "foreign", tiny_decoder(), None)
    result = weft("import", tmp_path / "foreign", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "without a tokenizer.json" in result.stderr


def test_nothing_else_is_ever_replaced(run_folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("论文")
    for out in (precious, precious / "thesis.txt", run_folder, run_folder / "model" / "x", tmp_path):
        result = weft("export", run_folder, "--out", out)
        assert result.exit_code == 2, out
        assert "--out" in result.stderr
        assert "Traceback" not in result.stderr
    assert (precious / "thesis.txt").read_text() == "论文"
    load_model(run_folder)


def test_a_link_in_the_tokenizer_is_not_copied_out(run_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    (run_folder / "model" / "vocab.json").symlink_to(secret)
    result = weft("import", run_folder, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "outside its folder" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("export", "{run}x", "--out", "o"), 1, "did you mean"),
        (("import", "{run}", "--out", "o", "--dtype", "float32"), 2, "No such option"),
        (("export", "{run}", "--out", "o", "--dtype", "float8"), 2, "bfloat16"),
        (("export", "{run}", "--out", "o", "--shard-size", "0"), 2, "not a size"),
        (("export", "{run}", "--out", "o", "--shard-size", "two"), 2, "not a size"),
        (("export", "{run}"), 2, "--out"),
    ],
)
def test_wrong_usage(run_folder: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    result = weft(*(argument.format(run=run_folder) for argument in arguments))
    assert result.exit_code == code
    assert words in result.stderr


def test_export_writes_gguf_with_its_lineage(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = record(
        weft("export", run_folder, "--out", out, "--format", "gguf", "--dtype", "q8_0", "--json", "-")
    )
    assert {file.name for file in out.iterdir()} == {"model.gguf", "manifest.json"}
    assert result["manifest"]["outputs"]["model.gguf"] == hash_file(out / "model.gguf")
    refused = weft("export", run_folder, "--out", tmp_path / "other", "--dtype", "q8_0")
    assert refused.exit_code == 2 and "q8_0" in refused.stderr and not (tmp_path / "other").exists()
