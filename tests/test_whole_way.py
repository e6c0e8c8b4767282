"""From text to a served model through the commands that people type, small enough for every test run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import weft
from weft.cli.main import main
from weft.data.sources import standard_library


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def record(*arguments: object, file: Path) -> dict[str, Any]:
    run(*arguments, "--json", file)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


# No budget: on a machine that others keep busy none is long enough.
SIZES = ("train.steps=60", "train.batch_tokens=2048", "model.hidden_size=96")


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and run/, made by `weft data` and `weft train`."""
    folder = tmp_path_factory.mktemp("way")
    sources = [standard_library() / name for name in ("json", "email", "http", "logging", "asyncio")]
    settings = ("tokenizer.vocab_size=512", "split.valid=0.1", "split.test=0.1")
    run("data", *sources, "--out", folder / "data", *settings)
    (folder / "run.toml").write_text("[data]\nsequence_length = 128\n[train]\nvalidate_rows = 8\n")
    run("train", folder / "run.toml", "--data", folder / "data", *SIZES, "--out", folder / "run")
    return folder


def test_evaluation_beside_its_baselines(way: Path, tmp_path: Path) -> None:
    found = record("eval", way / "run", "--prompts", 4, "--max-new-tokens", 16, file=tmp_path / "e.json")
    assert set(found["bits_per_byte"]) == {"model", "lzma", "ngram"}
    assert all(0 < estimate["value"] < 8 for estimate in found["bits_per_byte"].values())
    assert found["parse"]["functions"] == 4


def test_generation_from_python_and_the_command_line_agree(way: Path, tmp_path: Path) -> None:
    prompt = "def 读取(path):\n"
    settings = ("--num-samples", 5, "--seed", 3, "--max-new-tokens", 12)
    found = record("generate", way / "run", "--prompt", prompt, *settings, file=tmp_path / "g.json")
    model = weft.load(way / "run")
    texts = model.generate(prompt, max_new_tokens=12, num_samples=5, seed=3)
    assert len(texts) == 5 and all(text.startswith(prompt) for text in texts)
    said = json.dumps(found, ensure_ascii=False)
    assert all(json.dumps(text.removeprefix(prompt), ensure_ascii=False)[1:-1] in said for text in texts)
    ids = model.generate([0], max_length=20, num_samples=2, seed=0)
    assert len(ids) == 2 and all(sample[0] == 0 and len(sample) <= 20 for sample in ids)


def test_transformers_opens_the_run_and_writes_the_same_greedy_text(way: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = way / "run" / "model"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = "import json\n\ndef "
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        ids = theirs.generate(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=24, do_sample=False
        )
    expected = tokenizer.decode(ids[0], skip_special_tokens=True)
    ours = weft.load(way / "run", dtype="float32").generate(prompt, max_new_tokens=24, temperature=0.0)
    assert ours == [expected]


def test_a_second_start_does_nothing_again(way: Path) -> None:
    before = (way / "run" / "manifest.json").read_bytes(), (way / "data" / "manifest.json").read_bytes()
    result = run("train", way / "run.toml", "--data", way / "data", *SIZES, "--out", way / "run")
    assert "already trained" in result.output
    after = (way / "run" / "manifest.json").read_bytes(), (way / "data" / "manifest.json").read_bytes()
    assert before == after


def test_the_lineage_goes_back_to_the_text(way: Path) -> None:
    trained = json.loads((way / "run" / "manifest.json").read_text())
    shards = json.loads((way / "data" / "shards" / "manifest.json").read_text())
    assert trained["inputs"]["tokenizer"] == shards["inputs"]["tokenizer"]
    assert trained["inputs"]["data"] == shards["outputs"]["train.bin"]
